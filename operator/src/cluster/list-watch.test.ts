import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { ApiClient } from './api-client.ts';
import { ListWatch } from './list-watch.ts';
import type { ListWatchTiming } from './list-watch.ts';
import {
  ScriptedServer,
  bookmark,
  event,
  page,
  refuse,
  silence,
  statusObject,
  watching,
} from './testing/api-server.ts';
import { FakeClock, pause, until } from './testing/clock.ts';
import { recordingLog } from './testing/log.ts';

const path = '/apis/ovpn-operator.io/v1alpha1/vpnpeers';

let server: ScriptedServer;
const cleanup: (() => Promise<void>)[] = [];

beforeEach(async () => {
  server = new ScriptedServer();
  await server.start();
});

afterEach(async () => {
  for (const undo of cleanup.splice(0)) await undo();
  await server.stop();
});

const thing = (name: string, version: string, value = name): object => ({
  metadata: { name, resourceVersion: version },
  value,
});

/** A list/watch whose objects end up in a map, and a journal of what happened to it. */
function follow(timing: Partial<ListWatchTiming> = {}) {
  const clock = new FakeClock();
  const { log, events, lines } = recordingLog();
  const client = new ApiClient(server.access(), clock, 'test');
  const objects = new Map<string, string>();
  const journal: string[] = [];
  const listWatch = new ListWatch<[string, string]>({
    client,
    clock,
    random: () => 0.5,
    log,
    path,
    timing,
    reader: {
      decode: (object) => {
        const { metadata, value } = object as { metadata: { name: string }; value: string };
        return [metadata.name, value];
      },
      replaced: (items) => {
        objects.clear();
        for (const [name, value] of items) objects.set(name, value);
        journal.push(`list ${items.map(([name]) => name).join()}`);
      },
      put: ([name, value]) => {
        objects.set(name, value);
        journal.push(`put ${name}`);
      },
      deleted: ([name]) => {
        objects.delete(name);
        journal.push(`delete ${name}`);
      },
    },
  });
  cleanup.push(async () => {
    await listWatch.stop();
    client.close();
  });
  /** Moves on to what the engine waits for next, once it waits for it. */
  const wait = async (what: string, holds: () => boolean, stepMs = 1_000): Promise<void> => {
    await until(what, () => {
      if (holds()) return true;
      clock.advance(stepMs);
      return false;
    });
  };
  return { listWatch, clock, objects, journal, events, lines, wait };
}

const open = (count: number) => (): boolean => server.watches(path).length === count && server.open(path) === 1;

describe('ListWatch lists and watches', () => {
  test('all pages, then events from there, then on from the last bookmark', async () => {
    const { listWatch, journal } = follow({ pageSize: 2, watchSeconds: 300 });
    server.script(path, page([thing('a', '1'), thing('b', '2')], '10', 'next-page'), page([thing('c', '3')], '10'));
    server.script(
      path,
      watching(
        event('ADDED', thing('d', '11')) +
          event('MODIFIED', thing('a', '12')) +
          event('DELETED', thing('b', '13')) +
          bookmark('20'),
        'end',
      ),
    );
    await listWatch.start();
    await until('the second watch', open(2));
    expect(journal).toEqual(['list a,b,c', 'put d', 'put a', 'delete b']);
    expect(server.lists(path).map(({ query }) => query)).toEqual([
      { limit: '2' },
      { limit: '2', continue: 'next-page' },
    ]);
    expect(server.watches(path).map(({ query }) => query)).toEqual([
      { watch: '1', allowWatchBookmarks: 'true', resourceVersion: '10', timeoutSeconds: '450' },
      { watch: '1', allowWatchBookmarks: 'true', resourceVersion: '20', timeoutSeconds: '450' },
    ]);
    expect(server.requests[0]?.headers).toMatchObject({ authorization: 'Bearer test-token', 'user-agent': 'test' });
    expect(listWatch.health).toEqual({ ok: true, message: '' });
  });

  test('characters and lines that are split over chunks', async () => {
    const { listWatch, objects } = follow();
    const bytes = Buffer.from(event('ADDED', thing('a', '2', 'grün 🔑')) + event('ADDED', thing('b', '3')));
    server.script(path, page([], '1'), (response) => {
      response.writeHead(200);
      const next = (index: number): void => {
        if (index < bytes.length) response.write(bytes.subarray(index, index + 1), () => next(index + 1));
      };
      next(0);
    });
    await listWatch.start();
    await until('both', () => objects.size === 2);
    expect(objects.get('a')).toBe('grün 🔑');
  });

  test('an empty list may be null', async () => {
    const { listWatch, journal } = follow();
    server.script(path, (response) => {
      response.writeHead(200);
      response.end(JSON.stringify({ metadata: { resourceVersion: '5' }, items: null }));
    });
    await listWatch.start();
    expect(journal).toEqual(['list ']);
  });
});

describe('ListWatch goes on without a new list', () => {
  test('after a disconnect in the middle of a line', async () => {
    const { listWatch, journal, wait } = follow();
    server.script(path, page([thing('a', '1')], '10'));
    server.script(
      path,
      watching(event('ADDED', thing('b', '11')) + event('ADDED', thing('c', '12')).slice(0, 30), 'break'),
    );
    server.script(path, page([], '12'), watching(event('ADDED', thing('c', '12'))));
    await listWatch.start();
    await wait('the rest', () => journal.length === 3);
    expect(journal).toEqual(['list a', 'put b', 'put c']);
    expect(server.watches(path)[1]?.query['resourceVersion']).toBe('11');
    // The second one asks for the server's version alone.
    expect(server.lists(path).map(({ query }) => query['limit'])).toEqual(['500', '1']);
  });

  test('after one stall; after a second one it lists', async () => {
    const { listWatch, journal, clock, wait, events } = follow({ stallMs: 60_000 });
    server.script(path, page([thing('a', '1')], '10'), watching(bookmark('11')), page([], '11'), watching(''));
    server.script(path, page([thing('a', '1'), thing('b', '12')], '20'), watching(''));
    await listWatch.start();
    await until('the first watch', open(1));
    await pause(20);
    clock.advance(59_000);
    await pause(20);
    expect(server.watches(path).length).toBe(1);
    clock.advance(1_000);
    await wait('the second watch', open(2));
    expect(server.watches(path)[1]?.query['resourceVersion']).toBe('11');
    await pause(20);
    clock.advance(60_000);
    await wait('the list', () => journal.length === 2);
    expect(journal).toEqual(['list a', 'list a,b']);
    expect(events()).toContain('watch.interrupted');
  });

  test('after an outage from the last version, if the server has come so far', async () => {
    const { listWatch, journal, wait, events } = follow();
    server.script(path, page([thing('a', '1')], '10'), watching(bookmark('11'), 'break'));
    server.script(path, refuse(503, 'ServiceUnavailable'), page([], '11'), watching(event('ADDED', thing('b', '12'))));
    await listWatch.start();
    await wait('the event', () => journal.length === 2);
    expect(journal).toEqual(['list a', 'put b']);
    expect(server.lists(path).map(({ query }) => query['limit'])).toEqual(['500', '1', '1']);
    expect(server.watches(path).at(-1)?.query['resourceVersion']).toBe('11');
    expect(events()).not.toContain('watch.behind');
  });

  test('after an outage with a list, if the server is behind what it told: its store was restored', async () => {
    const { listWatch, journal, wait, events } = follow();
    // As text, 9 is more than 11.
    server.script(path, page([thing('a', '1'), thing('b', '11')], '11'), watching(bookmark('11'), 'break'));
    server.script(path, refuse(503, 'ServiceUnavailable'), page([], '9'), page([thing('a', '1')], '9'), watching(''));
    await listWatch.start();
    await wait('the list', () => journal.length === 2);
    expect(journal).toEqual(['list a,b', 'list a']);
    expect(events()).toContain('watch.behind');
    await wait('the watch', () => server.open(path) === 1);
    expect(server.watches(path).at(-1)?.query['resourceVersion']).toBe('9');
  });

  test('with a list after a single lost connection, if the server is behind: the next one waited for it', async () => {
    const { listWatch, journal, wait, events } = follow();
    server.script(path, page([thing('a', '1'), thing('b', '11')], '11'), watching(bookmark('11'), 'break'));
    server.script(path, page([], '9'), page([thing('a', '1')], '9'), watching(''));
    await listWatch.start();
    await wait('the list', () => journal.length === 2);
    expect(journal).toEqual(['list a,b', 'list a']);
    expect(events()).toContain('watch.behind');
  });

  test('with a list when a bookmark is behind', async () => {
    const { listWatch, journal, wait } = follow();
    server.script(path, page([thing('a', '1')], '10'), watching(bookmark('9')), page([], '9'), watching(''));
    await listWatch.start();
    await wait('the list', () => journal.length === 2);
    expect(journal).toEqual(['list a', 'list ']);
  });

  test('a sign of life keeps a stalled watch from being given up; half a line is none', async () => {
    const { listWatch, clock, wait } = follow({ stallMs: 60_000 });
    server.script(path, page([], '10'), watching(bookmark('11')), page([], '22'), watching(''));
    await listWatch.start();
    await until('the first watch', open(1));
    for (let minute = 0; minute < 3; minute += 1) {
      await pause(20);
      clock.advance(50_000);
      await server.send(path, bookmark(`2${minute}`));
    }
    await pause(20);
    expect(server.watches(path).length).toBe(1);
    await server.send(path, '{"type":"ADD');
    await pause(20);
    clock.advance(60_000);
    await wait('the second watch', open(2));
    expect(server.watches(path)[1]?.query['resourceVersion']).toBe('22');
  });

  test('after 429 on the first watch of a fresh CRD, when the server asked to come back', async () => {
    const { listWatch, clock, wait, journal } = follow();
    server.script(path, page([], '10'), refuse(429, 'TooManyRequests', { 'retry-after': '7' }));
    server.script(path, page([], '10'), watching(event('ADDED', thing('a', '11'))));
    await listWatch.start();
    await until('the refusal', () => server.watches(path).length === 1 && listWatch.health.message.includes('429'));
    await pause(20);
    clock.advance(6_900);
    await pause(20);
    expect(server.watches(path).length).toBe(1);
    await wait('the second watch', () => journal.includes('put a'));
    expect(server.lists(path).map(({ query }) => query['limit'])).toEqual(['500', '1']);
    expect(listWatch.health.ok).toBe(true);
  });

  test('without spinning on watches that end at once', async () => {
    const { listWatch, wait } = follow();
    server.script(path, page([], '10'), ...Array.from({ length: 50 }, () => watching('', 'end')));
    await listWatch.start();
    await until('the first watch', () => server.watches(path).length >= 1);
    await pause(100);
    expect(server.watches(path).length).toBe(1);
    await wait('more', () => server.watches(path).length >= 3, 100);
  });
});

describe('ListWatch lists anew', () => {
  test.each([
    ['an ERROR event 410', watching(event('ERROR', statusObject(410, 'Expired')))],
    ['HTTP 410', refuse(410, 'Gone')],
    ['another ERROR event', watching(event('ERROR', statusObject(500, 'InternalError')))],
    ['a line that is no JSON', watching('<html>proxy error</html>\n')],
    ['a line that is no event', watching('{"type":"ADDED"}\n')],
    ['an event of unknown type', watching(event('RENAMED', thing('a', '11')))],
    ['a line without an end', watching(Buffer.alloc(17 * 1024 * 1024, 'x'))],
    ['HTTP 404 (the CRD went)', refuse(404, 'NotFound')],
  ])('after %s', async (_what, step) => {
    const { listWatch, journal, objects, wait } = follow();
    server.script(
      path,
      page([thing('a', '1'), thing('b', '2')], '10'),
      step,
      page([thing('b', '2'), thing('c', '21')], '30'),
    );
    await listWatch.start();
    expect([...objects.keys()]).toEqual(['a', 'b']);
    await wait('the second list', () => journal.length === 2);
    expect(journal).toEqual(['list a,b', 'list b,c']);
    await until('the watch from there', () => server.watches(path).at(-1)?.query['resourceVersion'] === '30');
  });

  test('what a line held is not logged', async () => {
    const { listWatch, lines, wait, journal } = follow();
    server.script(path, page([], '10'), watching('{"hush": "hush-hush\n'), page([], '11'));
    await listWatch.start();
    await wait('the second list', () => journal.length === 2);
    expect(JSON.stringify(lines)).not.toContain('hush');
  });

  test('keeping what it has until the new list is complete', async () => {
    const { listWatch, journal, objects, wait } = follow({ pageSize: 1 });
    server.script(path, page([thing('a', '1')], '10'), refuse(410, 'Gone'));
    server.script(path, page([thing('b', '20')], '20', 'p2'), refuse(500, 'InternalError'));
    server.script(path, page([thing('b', '20')], '21', 'p2'), page([thing('c', '21')], '21'));
    await listWatch.start();
    await wait('the failure', () => listWatch.health.message.includes('500'), 100);
    expect([...objects.keys()]).toEqual(['a']);
    await wait('the new list', () => journal.length === 2);
    expect(journal).toEqual(['list a', 'list b,c']);
    await until('health', () => listWatch.health.ok);
  });
});

describe('ListWatch and lists that expire midway', () => {
  test('begins with the first page again', async () => {
    const { listWatch, journal } = follow({ pageSize: 1 });
    server.script(path, page([thing('a', '1')], '10', 'p2'), refuse(410, 'Expired'));
    server.script(path, page([thing('a', '1')], '20', 'p2b'), page([thing('b', '15')], '20'));
    await listWatch.start();
    expect(journal).toEqual(['list a,b']);
    expect(server.lists(path).map(({ query }) => query['continue'])).toEqual([undefined, 'p2', undefined, 'p2b']);
  });

  test('asks for all in one piece when that keeps happening', async () => {
    const { listWatch, journal } = follow({ pageSize: 1 });
    for (let round = 0; round < 3; round += 1) {
      server.script(path, page([thing('a', '1')], '10', 'p2'), refuse(410, 'Expired'));
    }
    server.script(path, page([thing('a', '1'), thing('b', '2')], '30'));
    await listWatch.start();
    expect(journal).toEqual(['list a,b']);
    expect(server.lists(path).at(-1)?.query).toEqual({});
  });
});

describe('ListWatch and a server that does not answer', () => {
  test('a CRD that is not there yet: not listed, unhealthy, then all right', async () => {
    const { listWatch, wait } = follow();
    server.script(path, refuse(404, 'NotFound'), refuse(429, 'TooManyRequests'), refuse(403, 'Forbidden'));
    const started = listWatch.start();
    await until('the first refusal', () => listWatch.health.message.includes('404'));
    expect(listWatch.listed).toBe(false);
    expect(listWatch.health).toMatchObject({ ok: false, message: expect.stringContaining(path) });
    await wait('the list', () => listWatch.listed);
    await started;
  });

  test('a list without an answer is given up in time', async () => {
    const { listWatch, clock, wait } = follow({ requestMs: 60_000 });
    server.script(path, silence);
    const started = listWatch.start();
    await until('the request', () => server.lists(path).length === 1);
    clock.advance(60_000);
    await until('the failure', () => listWatch.health.message.includes('no answer within 60 s'));
    await wait('the list', () => listWatch.listed);
    await started;
  });

  test('a watch whose head does not come is given up in time', async () => {
    const { listWatch, clock, wait } = follow({ requestMs: 60_000 });
    server.script(path, page([], '10'), silence, page([], '10'), silence);
    await listWatch.start();
    await until('the request', () => server.watches(path).length === 1);
    clock.advance(60_000);
    await until('the failure', () => listWatch.health.message.includes('no answer within 60 s'));
    await wait('the second watch', () => server.watches(path).length === 2);
    expect(server.lists(path).map(({ query }) => query['limit'])).toEqual(['500', '1']);
  });

  test('backs off up to the limit', async () => {
    const { listWatch, clock } = follow({ backoffMs: 500, backoffMaxMs: 4_000 });
    server.script(path, ...Array.from({ length: 7 }, () => refuse(503, 'ServiceUnavailable')));
    void listWatch.start();
    const delays: number[] = [];
    for (let round = 1; round <= 7; round += 1) {
      await until(`refusal ${round}`, () => server.lists(path).length === round);
      await until('the wait', () => clock.pending !== undefined && clock.pending < 10_000);
      delays.push(clock.pending ?? 0);
      clock.advance(clock.pending ?? 0);
    }
    // Each is three quarters of its range, as random is held at one half.
    expect(delays).toEqual([375, 750, 1500, 3000, 3000, 3000, 3000]);
    await until('the list', () => listWatch.listed);
  });

  test('stops at any time', async () => {
    for (const steps of [[silence], [page([], '1'), silence], [page([], '1'), watching('')], [refuse(500, 'x')]]) {
      const { listWatch } = follow();
      const before = server.requests.length;
      server.script(path, ...steps);
      const started = listWatch.start();
      await until('the requests', () => server.requests.length === before + steps.length);
      await listWatch.stop();
      await started;
    }
  });
});
