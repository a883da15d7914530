/** Texts and their bytes, by means that any engine has. */

/** The length in UTF-8. A half of a surrogate pair counts as the three bytes of U+FFFD. */
export function byteLength(text: string): number {
  let bytes = 0;
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0;
    bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  }
  return bytes;
}

/** A short name for a text (FNV-1a, 32 bits, of its UTF-16 code units), in hexadecimal digits. */
export function digest(text: string): string {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return (hash >>> 0).toString(16).padStart(8, '0');
}

/**
 * The value of a member of a JSON object as it is written there; undefined if there is none. Of several with one
 * name it is the last, as with JSON.parse. The text must be that of an object, already found to be JSON.
 */
export function memberText(json: string, name: string): string | undefined {
  let found: string | undefined;
  let depth = 0;
  let key: string | undefined;
  let start = 0;
  for (let i = 0; i < json.length; i++) {
    const character = json[i];
    if (character === '"') {
      const begin = i;
      for (i++; json[i] !== '"'; i++) if (json[i] === '\\') i++;
      if (depth === 1 && key === undefined) key = JSON.parse(json.slice(begin, i + 1)) as string;
    } else if (character === '{' || character === '[') {
      depth++;
    } else if (character === ':' && depth === 1) {
      start = i + 1;
    } else if (character === '}' || character === ']' || (character === ',' && depth === 1)) {
      if (depth === 1 && key === name) found = json.slice(start, i).trim();
      if (depth === 1) key = undefined;
      if (character !== ',') depth--;
    }
  }
  return found;
}
