import { describe, expect, test } from '@jest/globals';
import { lacksNeighbours, meshPatienceMs, type NodeStatus, sayIn } from './node-news.ts';

const status = (more: Partial<NodeStatus> = {}): NodeStatus => ({
  ...{ name: 'n1', ready: true, addresses: ['10.80.0.1'], podBlocks: [], peers: 0, attachments: 0 },
  ...more,
});
const mesh = (connected: number, neighbours: number): NodeStatus => status({ mesh: { connected, neighbours } });
const facts = { nodes: 50, saidAgoMs: 0, lackingForMs: 0 };

describe('a node says', () => {
  test('nothing twice', () => expect(sayIn(mesh(9, 9), mesh(9, 9), facts)).toBe(Infinity));

  test.each<[string, Partial<NodeStatus>]>([
    ['that it is not ready', { ready: false, message: 'the kernel refused' }],
    ['where it is', { underlayAddresses: ['192.0.2.1'] }],
    ['that it is of a mesh', { mesh: { connected: 0, neighbours: 0 } }],
  ])('at once %s', (_, more) => expect(sayIn(status(), status(more), facts)).toBe(0));

  test.each<[string, Partial<NodeStatus>]>([
    ['peers', { peers: 1 }],
    ['pods', { attachments: 1 }],
  ])('how many %s it has once in as many seconds as there are nodes', (_, more) => {
    expect(sayIn(status(), status(more), facts)).toBe(50_000);
    expect(sayIn(status(), status(more), { ...facts, saidAgoMs: 20_000 })).toBe(30_000);
    expect(sayIn(status(), status(more), { ...facts, saidAgoMs: 99_000 })).toBe(0);
  });
});

describe('of its mesh a node says', () => {
  test.each([
    ['a node that has joined', mesh(9, 9), mesh(10, 10)],
    ['a node that has left', mesh(199, 199), mesh(198, 198)],
    ['one that is missing from many', mesh(199, 199), mesh(198, 199)],
    ['one that is back among many', mesh(198, 199), mesh(197, 199)],
  ])('nothing by itself about %s', (_, said, now) =>
    expect(sayIn(said, now, { ...facts, saidAgoMs: 1e9, lackingForMs: 1e9 })).toBe(Infinity),
  );

  test('that one is missing from few, when it stays so', () => {
    expect(sayIn(mesh(2, 2), mesh(1, 2), facts)).toBe(meshPatienceMs);
    expect(sayIn(mesh(2, 2), mesh(1, 2), { ...facts, lackingForMs: meshPatienceMs })).toBe(0);
  });

  test('that it is cut off from many', () =>
    expect(sayIn(mesh(199, 199), mesh(120, 199), { ...facts, lackingForMs: meshPatienceMs })).toBe(0));

  test('how far it has come meanwhile as often as other figures', () =>
    expect(sayIn(mesh(0, 199), mesh(120, 199), facts)).toBe(50_000));

  test('at once that it lacks none any more', () => expect(sayIn(mesh(0, 199), mesh(199, 199), facts)).toBe(0));

  test('that the last one is back, which it had said to be missing for another reason', () =>
    expect(sayIn(mesh(198, 199), mesh(199, 199), facts)).toBe(50_000));

  test.each([
    [undefined, false],
    [{ connected: 10, neighbours: 10 }, false],
    [{ connected: 9, neighbours: 10 }, true],
    [{ connected: 9, neighbours: 11 }, false],
    [{ connected: 8, neighbours: 11 }, true],
    [{ connected: 180, neighbours: 199 }, false],
    [{ connected: 179, neighbours: 199 }, true],
  ])('%j: lacking %s', (of, lacks) => expect(lacksNeighbours(of)).toBe(lacks));
});
