import { encode } from 'uqr';
import { OvpnError } from '../../errors.ts';

/** What the largest QR code holds of bytes, with the least correction (ISO/IEC 18004, version 40-L). */
export const maxQrBytes = 2953;
/** The margin that a reader may count on (ISO/IEC 18004, 5.3.8), in modules. */
const quietZone = 4;

/** What is known of where it is to be shown. */
export interface Screen {
  readonly isTTY?: boolean;
  readonly columns?: number;
}

/**
 * A QR code in characters, each of two modules one above the other. On a terminal it brings its own colours, because
 * readers want dark on light.
 *
 * @throws OvpnError QrTooLarge when no QR code holds the text, or the terminal is too narrow for it
 */
export function qrCode(text: string, { isTTY = false, columns }: Screen): string {
  const size = Buffer.byteLength(text);
  if (size > maxQrBytes) {
    throw new OvpnError('QrTooLarge', `the profile has ${size} bytes, and a QR code holds ${maxQrBytes}`);
  }
  const { data, size: width } = encode(text, { ecc: 'L', border: quietZone });
  if (isTTY && columns !== undefined && columns < width) {
    const remedy = 'make the window wider or its font smaller, or print the profile into a file';
    throw new OvpnError(
      'QrTooLarge',
      `the QR code is ${width} characters wide, and the terminal has ${columns}`,
      {},
      { remedy },
    );
  }
  const lines: string[] = [];
  for (let y = 0; y < width; y += 2) {
    const line = Array.from({ length: width }, (_, x) => block(data[y]?.[x] === true, data[y + 1]?.[x] === true));
    lines.push(isTTY ? `\u001b[38;5;231;48;5;16m${line.join('')}\u001b[0m` : line.join(''));
  }
  return `${lines.join('\n')}\n`;
}

/** Blocks are light: the text of a terminal is, on a dark ground. */
function block(upperIsDark: boolean, lowerIsDark: boolean): string {
  return upperIsDark ? (lowerIsDark ? ' ' : '▄') : lowerIsDark ? '▀' : '█';
}
