/**
 * The plugin contract without a process around it, as containernetworking/cni's pkg/skel is: parameters and
 * configuration in, one JSON object (or nothing) and an exit code out. Whatever comes in, what goes to stdout is
 * what the specification allows there.
 */
import { cniCode, configFailure, toCniFailure, toErrorObject } from './cni-error.ts';
import { decodeConfig, parseCniVersion, parseConfig } from './config.ts';
import { parseAttachmentParameters, parseOperation } from './environment.ts';
import type { Host } from './host.ts';
import { get } from './json-reader.ts';
import { add, type Call, check, del, gc, status } from './operations.ts';
import { readConfigText, readVersionText } from './stdin.ts';
import type { CniVersion, Operation } from './versions.ts';
import { hasOperation, newestVersion, supportedVersions } from './versions.ts';

/** Runs one call of the plugin and gives the exit code; never throws. */
export function runPlugin(host: Host): 0 | 1 {
  // The version an error object carries: the configuration's as soon as it is known.
  const seen: Seen = { cniVersion: newestVersion };
  try {
    const output = dispatch(host, seen);
    if (output !== undefined) host.write(1, `${output}\n`);
    return 0;
  } catch (error) {
    const failure = toCniFailure(error);
    tell(host, 1, `${JSON.stringify(toErrorObject(failure, seen.cniVersion), undefined, 2)}\n`);
    tell(host, 2, `ovpn-cni: ${failure.message}\n`);
    return 1;
  }
}

/** A caller that closed its end of stdout or stderr learns nothing more. */
function tell(host: Host, fd: 1 | 2, text: string): void {
  try {
    host.write(fd, text);
  } catch {
    // Nobody reads it.
  }
}

interface Seen {
  cniVersion: CniVersion;
}

/** What goes to stdout, without its last newline. */
function dispatch(host: Host, seen: Seen): string | undefined {
  const operation = parseOperation(host.env);
  switch (operation) {
    case 'VERSION':
      return versionResult(readVersionText(host));
    case 'ADD':
    case 'CHECK':
    case 'DEL': {
      // First what costs nothing: a call that is wrong in itself need not wait for its input.
      const parameters = parseAttachmentParameters(host.env, operation);
      const call = readCall(host, seen, operation);
      if (operation === 'ADD') return add(call, parameters);
      (operation === 'DEL' ? del : check)(call, parameters);
      return undefined;
    }
    case 'STATUS':
      status(readCall(host, seen, operation));
      return undefined;
    case 'GC':
      gc(readCall(host, seen, operation));
      return undefined;
  }
}

function readCall(host: Host, seen: Seen, operation: Operation): Call {
  const text = readConfigText(host);
  const object = decodeConfig(text);
  const cniVersion = parseCniVersion(object);
  seen.cniVersion = cniVersion;
  if (!hasOperation(cniVersion, operation)) {
    throw configFailure(cniCode.incompatibleVersion, `version ${cniVersion} does not have ${operation}`, 'cniVersion');
  }
  return { host, text, config: parseConfig(object, cniVersion, operation) };
}

/**
 * Section 5, "VERSION Success": the version of the input comes back. A person who tries the binary gives
 * no input; the newest version stands in then.
 */
function versionResult(stdin: string): string {
  const asked = stdin.length === 0 ? undefined : get(decodeConfig(stdin), 'cniVersion');
  if (asked !== undefined && typeof asked !== 'string') {
    throw configFailure(cniCode.decodingFailure, 'must be a string', 'cniVersion');
  }
  const cniVersion = asked !== undefined && /^\d+\.\d+\.\d+$/.test(asked) ? asked : newestVersion;
  return JSON.stringify({ cniVersion, supportedVersions }, undefined, 2);
}
