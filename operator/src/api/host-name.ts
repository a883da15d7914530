import { parseAddress } from './ip.ts';

/** DNS labels of letters, digits and hyphens with dots between them; a dot at the end leaves out search domains. */
export const hostNamePattern =
  '^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?([.][a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)*[.]?$';
/** What ends in a number is an address (WHATWG URL, "ends in a number"): when it does not parse, a mistyped one. */
export const numericEndPattern = '(^|[.])[0-9]+[.]?$';

const hostName = new RegExp(hostNamePattern);
const numericEnd = new RegExp(numericEndPattern);

/** Whether the text is a DNS name, and could not be meant as an address. */
export function isHostName(text: string): boolean {
  return hostName.test(text) && !numericEnd.test(text);
}

/** The form in which equal hosts are equal: canonical addresses, names in lower case. */
export function normaliseHost(text: string): string {
  return parseAddress(text)?.text ?? lowerCase(text);
}

/** ASCII letters only: others are not letters of DNS, and some of their lower-case forms would be. */
export function lowerCase(text: string): string {
  return text.replaceAll(/[A-Z]+/g, (letters) => letters.toLowerCase());
}
