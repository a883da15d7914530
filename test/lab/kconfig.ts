/**
 * Compares a kernel configuration with a fragment of it and returns what of the fragment is not in force,
 * one readable line each. Kconfig drops options with unmet dependencies silently; this is how one notices.
 */
export function missingOptions(fragment: string, config: string): string[] {
  const actual = parseConfig(config);
  const missing: string[] = [];
  for (const [name, wanted] of parseConfig(fragment)) {
    const found = actual.get(name) ?? 'n';
    if (found !== wanted) missing.push(`${name}: wanted ${wanted}, the kernel's configuration has ${found}`);
  }
  return missing;
}

/** Reads `CONFIG_X=value` and `# CONFIG_X is not set` lines; the value of the latter is `n`. */
export function parseConfig(text: string): Map<string, string> {
  const options = new Map<string, string>();
  for (const line of text.split('\n')) {
    const set = /^(CONFIG_\w+)=(.*)$/.exec(line);
    const unset = /^# (CONFIG_\w+) is not set$/.exec(line);
    if (set?.[1] !== undefined && set[2] !== undefined) options.set(set[1], set[2]);
    else if (unset?.[1] !== undefined) options.set(unset[1], 'n');
  }
  return options;
}
