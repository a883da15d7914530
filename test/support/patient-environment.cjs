// jest's environment of node, with time-outs of tests and hooks as much longer as the lab says that its processors are
// slower (LAB_SLOWNESS, see slowness.ts): one place, instead of a factor in each test.
'use strict';
const { env } = require('node:process');
const { TestEnvironment } = require('jest-environment-node');

const slowness = Number(env.LAB_SLOWNESS ?? 1);

module.exports = class PatientEnvironment extends TestEnvironment {
  #stretched = new WeakSet();

  /** Before each run of a hook or a test jest reads its time-out; without one of its own it has that of all. */
  handleTestEvent(event, state) {
    if (event.name === 'run_start') state.testTimeout *= slowness;
    if (event.name === 'hook_start') this.#stretch(event.hook);
    if (event.name === 'test_fn_start') this.#stretch(event.test);
  }

  /** @param timed a hook or a test; a hook runs more than once */
  #stretch(timed) {
    if (timed.timeout === undefined || this.#stretched.has(timed)) return;
    this.#stretched.add(timed);
    timed.timeout *= slowness;
  }
};
