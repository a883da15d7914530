/** What the plugin uses of `node:net`, where there is no Node.js: the build puts this in its place. */
declare const host: { ipFamily(text: string): 0 | 4 | 6 };

export function isIP(text: string): 0 | 4 | 6 {
  return host.ipFamily(text);
}

export function isIPv6(text: string): boolean {
  return isIP(text) === 6;
}
