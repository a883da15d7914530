/** One block of a PEM text. */
export interface PemBlock {
  /** With its lines of BEGIN and END. */
  readonly text: string;
  readonly der: Buffer;
}

/**
 * The blocks of a text that have a label, in order (RFC 7468, 2); what has no end or is not base64 is none. It takes time
 * in proportion to the text, whatever is in it: Secrets of tenants have up to 1 MiB, and a pattern that looks for the end
 * of each beginning takes minutes for one.
 */
export function pemBlocks(text: string, label: string): PemBlock[] {
  const [begin, end] = [`-----BEGIN ${label}-----`, `-----END ${label}-----`];
  const blocks: PemBlock[] = [];
  for (let from = 0; ;) {
    const first = text.indexOf(begin, from);
    const stop = first < 0 ? -1 : text.indexOf(end, first + begin.length);
    if (stop < 0) return blocks;
    // Of several beginnings the last one is that of the block: the others have no end.
    const start = text.lastIndexOf(begin, stop);
    from = stop + end.length;
    const body = text.slice(start + begin.length, stop);
    if (/^[A-Za-z0-9+/=\s]+$/.test(body))
      blocks.push({ text: text.slice(start, from), der: Buffer.from(body, 'base64') });
  }
}
