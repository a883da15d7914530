import { renameSync, writeFileSync } from 'node:fs';

// Loaded into the agent's process before its own code (NODE_OPTIONS=--expose-gc --import=THIS). At SIGUSR2 it collects
// garbage and writes down what is left. It keeps nothing itself.

const path = process.env['OVPN_SOAK_OBSERVATION'];

if (path !== undefined) {
  process.on('SIGUSR2', () => {
    globalThis.gc?.();
    // Once more: what finalizers let go of.
    setImmediate(() => {
      globalThis.gc?.();
      const { heapUsed, external, rss } = process.memoryUsage();
      const resources = process.getActiveResourcesInfo();
      const timers = resources.filter((kind) => kind === 'Timeout' || kind === 'Immediate').length;
      const observation = { heapUsed, external, rss, timers, handles: resources.length - timers };
      writeFileSync(`${path}.new`, JSON.stringify(observation));
      renameSync(`${path}.new`, path);
    });
  });
}
