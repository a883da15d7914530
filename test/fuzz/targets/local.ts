import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseAgentRequest } from '../../../operator/src/agent/attach-request.ts';
import { parseReply, parseRequest } from '../../../operator/src/holder/protocol.ts';
import { MalformedMessage, parseMessages } from '../../../operator/src/kernel/netlink/message.ts';
import { parseNotification } from '../../../operator/src/kernel/ovpn/codec.ts';
import { parseWrapperState } from '../../../operator/src/openvpn/wrap/wrapper-state.ts';
import { SessionWrapper } from '../../../operator/src/openvpn/wrap/session-wrapper.ts';
import { errors, parsed, require, type Target } from '../target.ts';

/** What comes from this machine only: cheap to check, all the same. */

const json = ['{', '}', '[', ']', '"', ':', ',', 'null', '1e999', '-1', '__proto__', 'constructor', '\\u0000', '""'];

export const agentRequest: Target = {
  name: 'agent-request',
  input: 'one request of the CNI plugin to the agent, without its newline',
  maxBytes: 100_000,
  words: [...json, '"version"', '"op"', '"add"', '"del"', '"netns"', '"pod"', '"uid"', '"ifname"', '"containerId"'],
  run: (input) => void parsed(() => parseAgentRequest(input), errors.OvpnError),
  seeds: () => ({
    add: Buffer.from(
      '{"version":1,"op":"add","network":"corp","containerId":"c1","ifname":"net1","netns":"/run/netns/x",' +
        '"pod":{"namespace":"default","name":"web","uid":"1"}}',
    ),
    del: Buffer.from('{"version":1,"op":"del","network":"corp","containerId":"c1","ifname":"net1"}'),
    status: Buffer.from('{"version":1,"op":"status"}'),
  }),
};

export const holderRequest: Target = {
  name: 'holder-request',
  input: 'a request to the socket holder, or a reply of it',
  maxBytes: 65_536,
  words: [...json, '"op"', '"put"', '"get"', '"drop"', '"list"', '"name"', '"ok"', '"names"', '"error"', 'true'],
  run: (input) => {
    const request = parseRequest(input);
    require(request === undefined || request.op === 'list' || request.name.length <= 256, 'a name is too long');
    parseReply(input);
  },
  seeds: () => ({
    put: Buffer.from('{"op":"put","name":"corp/udp"}'),
    list: Buffer.from('{"op":"list"}'),
    names: Buffer.from('{"ok":true,"names":["corp/udp"]}'),
    failed: Buffer.from('{"ok":false,"error":"no such name"}'),
  }),
};

export const notifications: Target = {
  name: 'notification',
  input: "a datagram of the kernel's netlink notifications",
  maxBytes: 70_000,
  run: (input) => {
    const messages = parsed(() => parseMessages(input), MalformedMessage) ?? [];
    for (const { payload } of messages) {
      parsed(() => parseNotification(payload), MalformedMessage);
    }
  },
  seeds: () => {
    const path = join(import.meta.dirname, '../../fixtures/netlink/notifications.json');
    const { recorded } = JSON.parse(readFileSync(path, 'utf8')) as { recorded: Record<string, string[]> };
    return Object.fromEntries(
      Object.entries(recorded)
        .flatMap(([name, packets]) =>
          packets.map((hex, i): [string, Buffer] => [`${name}-${i}`, Buffer.from(hex, 'hex')]),
        )
        .slice(0, 20),
    );
  },
};

export const wrapperState: Target = {
  name: 'wrapper-state',
  input: "a session's saved wrapping, as JSON",
  maxBytes: 4000,
  words: [...json, '"replay"', '"sent"', '"received"', '"window"', '"dynamic"', '"clientKey"', '4294967295'],
  run: (input) => {
    let value: unknown;
    try {
      value = JSON.parse(input.toString('utf8'));
    } catch {
      return;
    }
    const state = parseWrapperState(value);
    if (state === undefined) {
      return;
    }
    const wrapper = new SessionWrapper(
      { kind: 'tls-crypt-v2-server', serverKey: Buffer.alloc(128, 1) },
      { role: 'server', transport: 'udp', clock: () => 1_800_000_000_000, state },
    );
    require(parseWrapperState(JSON.parse(JSON.stringify(wrapper.state))) !== undefined, 'its own state is none');
  },
  seeds: () => {
    const key = Buffer.alloc(256, 5).toString('base64');
    const replay = { sent: 1_700_000_000, received: { id: 5, time: 1_700_000_000 }, window: '000000000000001f' };
    return {
      plain: Buffer.from(JSON.stringify({ replay })),
      full: Buffer.from(JSON.stringify({ replay, clientKey: key, dynamic: { key, replay } })),
    };
  },
};
