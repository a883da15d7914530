import type { Past } from './history.ts';

const rowHeight = 22;
const labelWidth = 520;
const barsWidth = 300;
const margin = 12;
const headHeight = 30;

/**
 * The last run of a suite as a picture: a bar for each ratio, to the left of the line at 1 where ours takes less, to the
 * right where it takes more. The scale is one of doublings, so that twice and half are equally far from the line.
 */
export function chartOf(suite: string, { ratios, date, kernel }: Past): string {
  const entries = Object.entries(ratios);
  const reach = Math.max(1, ...entries.map(([, ratio]) => Math.abs(Math.log2(ratio))));
  const one = margin + labelWidth + barsWidth / 2;
  const at = (ratio: number): number => one + (Math.log2(ratio) / reach) * (barsWidth / 2);
  const width = labelWidth + barsWidth + 2 * margin + 60;
  const height = headHeight + entries.length * rowHeight + 2 * margin;
  const bars = entries.map(([key, ratio], index) => {
    const y = headHeight + margin + index * rowHeight;
    const [name = '', peer = ''] = key.split(' | ');
    const [from, to] = [Math.min(one, at(ratio)), Math.max(one, at(ratio))];
    return [
      `<text x="${margin + labelWidth - 8}" y="${y + 15}" text-anchor="end">${escaped(name)} <tspan class="peer">${escaped(peer)}</tspan></text>`,
      `<rect class="${ratio <= 1 ? 'less' : 'more'}" x="${fixed(from)}" y="${y + 3}" width="${fixed(Math.max(1, to - from))}" height="16"/>`,
      `<text x="${fixed(ratio <= 1 ? one + 6 : to + 6)}" y="${y + 15}">${ratio.toFixed(2)}</text>`,
    ].join('\n');
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" aria-labelledby="title desc">`,
    `<title id="title">${escaped(`Benchmark ${suite}`)}</title>`,
    `<desc id="desc">${escaped(`Our figures divided by those of the peers, a bar for each. ${entries.map(([key, ratio]) => `${key}: ${ratio.toFixed(2)}`).join('; ')}.`)}</desc>`,
    '<style>',
    'text { font: 12px system-ui, sans-serif; fill: #24292f } .peer { fill: #6e7781 } line { stroke: #24292f }',
    '.less { fill: #2da44e } .more { fill: #bf8700 }',
    '@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .peer { fill: #8b949e } line { stroke: #e6edf3 } }',
    '</style>',
    `<text x="${margin}" y="${margin + 10}">${escaped(`${suite}, ${date}, Linux ${kernel}: ours divided by the peer's, to the left is better`)}</text>`,
    ...bars,
    `<line x1="${fixed(one)}" y1="${headHeight + 4}" x2="${fixed(one)}" y2="${height - 4}"/>`,
    '</svg>',
    '',
  ].join('\n');
}

/** A coordinate, no longer than it can be seen. */
function fixed(value: number): string {
  return String(Number(value.toFixed(1)));
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
