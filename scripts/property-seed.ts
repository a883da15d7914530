import fc from 'fast-check';

/**
 * Before each test file: property tests draw the same inputs every time, so that a change is judged by what it changed.
 * To look for others: `OVPN_PROPERTIES=random npm run test:unit`, or with the seed that a failure named in its place.
 */
const wanted = process.env['OVPN_PROPERTIES'] ?? '1';
if (wanted !== 'random') {
  const seed = Number(wanted);
  if (!Number.isSafeInteger(seed))
    throw new TypeError(`OVPN_PROPERTIES is ${JSON.stringify(wanted)}; it has to be an integer or "random"`);
  fc.configureGlobal({ ...fc.readConfigureGlobal(), seed });
}
