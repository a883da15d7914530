import { AttrStream } from 'netlink/dist/structs.js';
import { MalformedMessage, type Message, type RequestWriter } from '../netlink/message.ts';

// Only the codecs of the `netlink` package are used, by their own files: its index loads a native socket
// that aborts the process on a multicast overrun (docs/decisions/0002-netlink-transport.md).
export * as rt from 'netlink/dist/rt/structs.js';
export { parseLinkAttrs, formatLinkAttrs, type LinkAttrs } from 'netlink/dist/rt/ifla.js';

/** Writes what one of the package's formatters emits. */
export function emit(writer: RequestWriter, format: (out: AttrStream) => void): void {
  const out = new AttrStream();
  format(out);
  writer.raw(Buffer.concat(out.bufs));
}

/** Makes a parser throw MalformedMessage for whatever it, or the package's code, does not like in a message. */
export function strictly<T>(parse: (message: Message) => T): (message: Message) => T {
  return (message) => {
    try {
      return parse(message);
    } catch (error) {
      throw new MalformedMessage('rtnetlink message not understood', { cause: error });
    }
  };
}
