/** Tests whose outcome depends on the kernel's driver, in suites that run in a guest of their own. */
export interface StockSuite {
  readonly name: string;
  readonly project: 'kernel' | 'e2e';
  readonly files: readonly string[];
  /** For all of it on emulated processors. Seconds. */
  readonly timeout: number;
}

const kernel = (...names: string[]): string[] => names.map((name) => `test/kernel/${name}.test.ts`);
const e2e = (...names: string[]): string[] => names.map((name) => `test/e2e/${name}.test.ts`);

export const stockSuites: readonly StockSuite[] = [
  {
    name: 'netlink',
    project: 'kernel',
    files: kernel('netlink', 'peers', 'keys', 'notifications', 'traffic', 'transport-udp', 'transport-tcp', 'handover'),
    timeout: 3600,
  },
  {
    name: 'restarts',
    project: 'e2e',
    files: e2e('restart', 'session-restart', 'float'),
    timeout: 3600,
  },
  {
    name: 'agent-restarts',
    project: 'kernel',
    files: kernel('agent-restart', 'agent-drift', 'agent-rotation'),
    timeout: 3600,
  },
  { name: 'mesh', project: 'kernel', files: kernel('mesh'), timeout: 3600 },
];
