import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { SessionWrapper } from './session-wrapper.ts';
import { parseWrapperState, type WrapperState } from './wrapper-state.ts';

const replay = { sent: 5, received: { id: 3, time: 4 }, window: '0000000000000007' };
const key = Buffer.alloc(256, 1).toString('base64');

describe('the state of a wrapping', () => {
  test.each([
    ['counters', { replay }],
    ['a client key', { replay, clientKey: key }],
    ['a dynamic key', { replay, dynamic: { key, replay } }],
    ['both', { replay, clientKey: key, dynamic: { key, replay } }],
  ])('with %s comes back from JSON', (_what, state: WrapperState) => {
    expect(parseWrapperState(JSON.parse(JSON.stringify(state)))).toEqual(state);
    const config = { kind: 'tls-crypt', key: Buffer.alloc(256, 2) } as const;
    const wrapper = new SessionWrapper(config, { role: 'client', transport: 'udp', clock: () => 0, state });
    // What sends next comes later than all that was sent before.
    const later = { ...replay, sent: replay.sent + 1 };
    expect(wrapper.state).toEqual({
      ...state,
      replay: later,
      ...(state.dynamic === undefined ? {} : { dynamic: { key, replay: later } }),
    });
  });

  test('leaves out what it does not know', () => {
    expect(parseWrapperState({ replay, other: 1 })).toEqual({ replay });
  });

  test.each([
    [undefined],
    [null],
    ['x'],
    [[]],
    [{}],
    [{ replay: { ...replay, sent: -1 } }],
    [{ replay: { ...replay, sent: '5' } }],
    [{ replay: { ...replay, received: { id: 1.5, time: 1 } } }],
    [{ replay: { ...replay, received: { id: 1, time: 2 ** 32 } } }],
    [{ replay: { ...replay, window: '7' } }],
    [{ replay: { ...replay, window: 'xxxxxxxxxxxxxxxx' } }],
    [{ replay, clientKey: 'short' }],
    [{ replay, dynamic: { key } }],
    [{ replay, dynamic: { key: 'short', replay } }],
  ])('%j is none', (value) => {
    expect(parseWrapperState(value)).toBeUndefined();
  });

  test('anything else is none either', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(parseWrapperState(value)).toBeUndefined();
      }),
    );
  });
});
