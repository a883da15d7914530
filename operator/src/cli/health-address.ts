import { InvalidArgumentError } from 'commander';

/** Where a program listens for probes. */
export interface HealthAddress {
  readonly host: string;
  readonly port: number;
}

/** Reads `ADDRESS:PORT`, with an IPv6 address in brackets. */
export function healthAddress(text: string): HealthAddress {
  const [, bracketed, plain, port] = /^(?:\[([0-9a-fA-F:.]+)\]|([^:]*)):(\d{1,5})$/.exec(text) ?? [];
  const number = Number(port);
  if (port === undefined || number > 65_535)
    throw new InvalidArgumentError('must be ADDRESS:PORT, such as 0.0.0.0:8081');
  return { host: bracketed ?? plain ?? '', port: number };
}
