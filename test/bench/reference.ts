import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const source = join(import.meta.dirname, 'reference', 'ovpn-netlink.c');

/** Something on this machine keeps the benchmarks from running; the message says what to do. */
export class BenchError extends Error {
  override readonly name = 'BenchError';
}

/** The folder of built programs: outside the repository, beside the lab's. */
export function benchCache(env: NodeJS.ProcessEnv = process.env): string {
  const base = env['XDG_CACHE_HOME'];
  return join(base !== undefined && base !== '' ? base : join(homedir(), '.cache'), 'ovpn-operator', 'bench');
}

/** Compiles the C program unless the cache has it already; resolves to its path. */
export async function buildReference(cache = benchCache(), compiler = 'cc'): Promise<string> {
  const text = await readFile(source);
  const flags = ['-O2', '-std=gnu17', '-Wall', '-Wextra'];
  const key = createHash('sha256').update(text).update(flags.join(' ')).update(process.arch).digest('hex').slice(0, 16);
  const target = join(cache, `ovpn-netlink-${key}`);
  if (await stat(target).catch(() => undefined)) return target;
  await mkdir(cache, { recursive: true });
  const temporary = `${target}.${process.pid}`;
  try {
    await promisify(execFile)(compiler, [...flags, '-o', temporary, source]);
    await rename(temporary, target);
  } catch (error) {
    throw new BenchError(whyNotCompiled(compiler, error), { cause: error });
  } finally {
    await rm(temporary, { force: true });
  }
  return target;
}

function whyNotCompiled(compiler: string, error: unknown): string {
  const fields = typeof error === 'object' && error !== null ? error : {};
  if ('code' in fields && fields.code === 'ENOENT') {
    return `the benchmarks compare with a C program, and there is no C compiler '${compiler}' on PATH.\nOn Debian or Ubuntu: apt-get install gcc libc6-dev linux-libc-dev`;
  }
  return `cannot compile ${source}:\n${'stderr' in fields && typeof fields.stderr === 'string' ? fields.stderr : String(error)}`;
}
