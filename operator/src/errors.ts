/**
 * The one table of errors a person can meet. Codes are stable: they appear in logs, events, conditions
 * and CNI results, and the documentation explains them under the same code. Never reuse a code.
 *
 * 1xx resources · 2xx keys · 3xx kernel · 4xx agent and its socket · 5xx CNI configuration and runtime
 */
export const errorTable = {
  ManifestUnreadable: { code: 'OVPN101', remedy: 'fix the file so that it is valid YAML with one object per document' },
  UnknownField: { code: 'OVPN102', remedy: 'remove the field or correct its spelling' },
  InvalidField: { code: 'OVPN103', remedy: 'give the field a value of the form the message names' },
  UnknownKind: { code: 'OVPN104', remedy: 'use VpnNetwork, VpnPeer, VpnKey or Secret in a supported version' },
  DuplicateObject: { code: 'OVPN105', remedy: 'keep one of the two objects, or rename one' },
  ReferenceNotFound: { code: 'OVPN106', remedy: 'create the object it refers to, or correct the reference' },
  AddressOutsidePool: { code: 'OVPN107', remedy: 'choose an address inside a pool of the VpnNetwork' },
  AddressConflict: { code: 'OVPN108', remedy: 'give one of the two another address' },
  RouteConflict: { code: 'OVPN109', remedy: 'remove the route from one of the two peers, or make the routes disjoint' },
  NotAllowed: { code: 'OVPN110', remedy: 'have the owner of the VpnNetwork allow it, or ask for less' },
  PeerIdConflict: { code: 'OVPN111', remedy: 'give one of the two peers another peerID' },
  ApiUnavailable: {
    code: 'OVPN112',
    remedy: 'check the API server and the RBAC rules of the agent; what runs goes on',
  },
  IdentityConflict: { code: 'OVPN113', remedy: 'give one of the two peers another identity, or delete one' },
  PkiMissing: {
    code: 'OVPN114',
    remedy: "give the VpnNetwork spec.pki with the server's certificate and the CA of its clients",
  },
  IdentityNotIssued: {
    code: 'OVPN118',
    remedy: 'name a VpnKey in spec.identity.key where the network has spec.pki.builtIn, and only there',
  },
  AddressPending: {
    code: 'OVPN115',
    remedy: 'wait for the controller to give it one, and see that it runs; where there is none, set spec.addresses',
  },
  PoolFull: { code: 'OVPN116', remedy: 'delete what is not needed, or give the VpnNetwork a larger pool' },

  SecretMissing: { code: 'OVPN201', remedy: 'create the Secret with that key, or correct secretRef' },
  KeyMaterialInvalid: { code: 'OVPN202', remedy: 'put in a key made by `openvpn --genkey secret FILE`' },
  KeySpent: { code: 'OVPN203', remedy: 'raise spec.static.generation by one on both ends' },
  CertificateInvalid: {
    code: 'OVPN205',
    remedy: 'put in a certificate, its private key without a passphrase, and the CA, all in PEM',
  },
  LedgerUnusable: { code: 'OVPN204', remedy: 'restore the ledger file or move it away and raise every generation' },

  KernelWithoutOvpn: {
    code: 'OVPN301',
    remedy: 'boot Linux 6.16 or newer with CONFIG_OVPN, or load the module: modprobe ovpn',
  },
  NotPermitted: { code: 'OVPN302', remedy: 'run as root with CAP_NET_ADMIN in the initial user namespace' },
  KernelRefused: { code: 'OVPN303', remedy: "follow the kernel's text; the agent retries with back-off" },
  NamespaceUnusable: { code: 'OVPN304', remedy: 'check that the network namespace exists and is a namespace' },

  AgentUnreachable: { code: 'OVPN401', remedy: 'check that the node agent runs on this node; the runtime retries' },
  AgentProtocol: { code: 'OVPN402', remedy: 'bring the plugin and the agent to the same version' },
  HolderUnreachable: { code: 'OVPN403', remedy: 'start the socket holder (ovpn-agent holder); the agent retries' },
  StateUnusable: { code: 'OVPN404', remedy: 'check the state folder: it must be writable by root and on a local disk' },
  AgentInternal: { code: 'OVPN406', remedy: "look at the agent's log and report the defect; the runtime retries" },
  RemoteUnsuitable: { code: 'OVPN407', remedy: 'change the configuration of the remote server' },
  ConfigInvalid: { code: 'OVPN405', remedy: 'correct the option; see --help' },

  CniConfigInvalid: { code: 'OVPN501', remedy: 'correct the network configuration of the ovpn-cni plugin' },
  CniEnvironmentInvalid: {
    code: 'OVPN502',
    remedy: 'call the plugin by a CNI runtime, or set the CNI_* variables as the spec says',
  },
  NetworkNotReady: { code: 'OVPN503', remedy: 'wait until the VpnNetwork is Ready on this node, or create it' },
  AttachNotAllowed: { code: 'OVPN504', remedy: 'have the owner of the VpnNetwork allow the pod in spec.attach' },
  PodUnknown: { code: 'OVPN506', remedy: 'wait until the API server knows the pod; the runtime retries' },
  AttachmentDeviates: {
    code: 'OVPN507',
    remedy: 'look who changed it; the agent mends its own part with its next round, and a new pod is as it should be',
  },
  IpamFailed: { code: 'OVPN508', remedy: 'correct the ipam section, or look at what its plugin needs' },
  CniInstallFailed: {
    code: 'OVPN509',
    remedy: "correct the file, or see that the folder is the container runtime's and that root can write to it",
  },
  PoolExhausted: { code: 'OVPN505', remedy: 'delete unused pods or give the node a larger pod block' },
} as const;

export type ErrorName = keyof typeof errorTable;

/** Where a problem is: the object, and the field inside it as a path (`spec.routes[0]`). */
export interface Where {
  readonly object?: string;
  readonly field?: string;
}

/**
 * An error a person meets: what is wrong, where, and what to do. `message` holds all three, so that it
 * can be printed, logged or put in a condition as it is.
 */
export class OvpnError extends Error {
  override readonly name: ErrorName;
  readonly code: string;
  readonly problem: string;
  readonly where: Where;
  readonly remedy: string;

  constructor(name: ErrorName, problem: string, where: Where = {}, options: { cause?: unknown; remedy?: string } = {}) {
    const remedy = options.remedy ?? errorTable[name].remedy;
    super(`${formatWhere(where)}${problem}; to mend it: ${remedy} [${errorTable[name].code}]`, {
      cause: options.cause,
    });
    this.name = name;
    this.code = errorTable[name].code;
    this.problem = problem;
    this.where = where;
    this.remedy = remedy;
  }
}

function formatWhere({ object, field }: Where): string {
  const parts = [object, field].filter((part) => part !== undefined);
  return parts.length === 0 ? '' : `${parts.join(': ')}: `;
}

/** The message of anything thrown, without assuming that it is an Error. */
export function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
