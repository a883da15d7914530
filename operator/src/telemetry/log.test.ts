import { describe, expect, test } from '@jest/globals';
import { OvpnError } from '../errors.ts';
import { createLog, silentLog } from './log.ts';
import type { LogLevel } from './levels.ts';

import { CENSOR, scrubText } from './scrub.ts';

function capture(level: LogLevel = 'debug', base = {}) {
  const raw: string[] = [];
  const log = createLog({ level, base, to: { write: (line) => void raw.push(line) } });
  return { log, raw, lines: () => raw.map((line) => JSON.parse(line) as Record<string, unknown>) };
}

const pem = '-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END PRIVATE KEY-----';
const ovpnKey = '-----BEGIN OpenVPN Static key V1-----\n6acef03f\n-----END OpenVPN Static key V1-----';

describe('log', () => {
  test('writes one JSON object per line with level, event, fields and message', () => {
    const { log, lines } = capture('debug', { node: 'n1' });
    log.child({ part: 'source' }).info({ event: 'source.synced', objects: 3 }, 'everything was read');
    expect(lines()).toEqual([
      {
        level: 'info',
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
        node: 'n1',
        part: 'source',
        event: 'source.synced',
        objects: 3,
        message: 'everything was read',
      },
    ]);
  });

  test('the level holds for children too', () => {
    const { log, lines } = capture('warn');
    log.debug({ event: 'a' }, 'a');
    log.child({}).info({ event: 'b' }, 'b');
    log.child({}).warn({ event: 'c' }, 'c');
    log.error({ event: 'd' }, 'd');
    expect(lines().map((line) => line['event'])).toEqual(['c', 'd']);
  });

  test('secrets are taken out at any depth, counts stay', () => {
    const { log, raw, lines } = capture();
    log.info(
      {
        event: 'x',
        resource: {
          kind: 'Secret',
          data: { 'tls.key': 'czNjcjN0' },
          nested: [{ headers: { Authorization: 'Bearer czNjcjN0' } }],
        },
        keys: 2,
        'tls.key': 's3cr3t',
        bytes: Buffer.from('s3cr3t'),
        text: `before ${pem} after`,
      },
      `a message with ${ovpnKey}`,
    );
    expect(raw.join('')).not.toMatch(/s3cr3t|czNjcjN0|MC4CAQ|6acef03f/);
    expect(lines()[0]).toMatchObject({
      resource: { kind: 'Secret', data: CENSOR },
      keys: 2,
      bytes: '[6 bytes]',
      text: `before ${CENSOR} after`,
      message: `a message with ${CENSOR}`,
    });
  });

  test('a key block that was cut off is taken out as well', () => {
    const { log, raw } = capture();
    log.info({ event: 'x' }, `oops ${pem.slice(0, 40)}`);
    expect(raw[0]).not.toContain('MC4CAQ');
  });

  test('errors show name, code, message and cause', () => {
    const { log, lines } = capture();
    const cause = Object.assign(new Error('connect failed'), { code: 'ECONNREFUSED' });
    log.warn({ event: 'x', error: new OvpnError('ApiUnavailable', 'no answer', {}, { cause }) }, 'm');
    expect(lines()[0]?.['error']).toMatchObject({
      name: 'ApiUnavailable',
      code: 'OVPN112',
      message: expect.stringContaining('no answer'),
      cause: { code: 'ECONNREFUSED', message: 'connect failed' },
    });
  });

  test('fields that JSON cannot hold do not throw', () => {
    const { log, lines } = capture();
    const loop: Record<string, unknown> = { n: 1n };
    loop['self'] = loop;
    log.info({ event: 'x', loop, map: new Map([['a', 1]]), set: new Set([1]) }, 'm');
    expect(lines()[0]).toMatchObject({ loop: { n: '1', self: '[circular]' }, map: { a: 1 }, set: [1] });
  });

  test('the silent log is silent', () => {
    expect(() => silentLog.child({}).error({ event: 'x' }, 'm')).not.toThrow();
  });
});

test.each(['-----BEGIN ', '-----BEGIN OpenVPN '])('a long text of %j is looked through at once', (piece) => {
  const before = process.cpuUsage();
  expect(scrubText(`${piece.repeat(5000)} end`)).toMatch(/end$/);
  expect(process.cpuUsage(before).user).toBeLessThan(2_000_000);
});
