/** Text from hostile places, made fit for messages, logs and terminals. */

const SHOWN_CHARS = 300;

/** Control, format and line-separator characters could forge log lines or drive a terminal: escape them. */
export function printable(text: string, maxChars: number = SHOWN_CHARS): string {
  const cut = Array.from(text.slice(0, maxChars * 2)).slice(0, maxChars);
  const shown = cut.join('').replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, (character) => {
    const code = character.codePointAt(0) ?? 0;
    return code <= 0xff ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`;
  });
  return cut.join('').length < text.length ? `${shown}…` : shown;
}
