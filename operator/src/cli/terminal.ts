/**
 * A text for a terminal without what a terminal would obey: control characters but the ends of lines, and characters
 * that turn or hide others (U+202E and its like). Names, reasons and messages come from peers, tenants and manifests,
 * and JSON's quoting leaves C1 controls as they are. kubectl does the same with its tables (CVE-2021-25743).
 */
export function forTerminal(text: string): string {
  return text.replaceAll(/(?!\n)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '?');
}
