/** A row: its stable code, what the error means, and what to do about it. */
interface ErrorRow {
  readonly code: `OVPN${number}`;
  readonly meaning: string;
  readonly remedy: string;
}

/**
 * The one table of errors a person can meet. Codes are stable: they appear in logs, events, conditions
 * and CNI results, and docs/reference/errors.md, which is generated from here, explains them under the same code. Never reuse a code.
 *
 * 1xx resources · 2xx keys · 3xx kernel · 4xx agent and its socket · 5xx CNI configuration and runtime
 * 6xx kubectl ovpn
 */
export const errorTable = {
  ManifestUnreadable: {
    code: 'OVPN101',
    meaning: 'A file cannot be read or is not YAML. Objects it gave before stay in force.',
    remedy: 'fix the file so that it is valid YAML with one object per document',
  },
  UnknownField: {
    code: 'OVPN102',
    meaning: 'A manifest has a field that does not exist.',
    remedy: 'remove the field or correct its spelling',
  },
  InvalidField: {
    code: 'OVPN103',
    meaning: 'A value is of the wrong type, out of range, or breaks a rule.',
    remedy: 'give the field a value of the form the message names',
  },
  UnknownKind: {
    code: 'OVPN104',
    meaning: 'An object of a kind or version that the agent does not know.',
    remedy: 'use VpnNetwork, VpnPeer, VpnKey or Secret in a supported version',
  },
  DuplicateObject: {
    code: 'OVPN105',
    meaning: 'The same object stands in two places.',
    remedy: 'keep one of the two objects, or rename one',
  },
  ReferenceNotFound: {
    code: 'OVPN106',
    meaning: 'An object refers to another one that is not there.',
    remedy: 'create the object it refers to, or correct the reference',
  },
  AddressOutsidePool: {
    code: 'OVPN107',
    meaning: "An address lies outside the VpnNetwork's pools.",
    remedy: 'choose an address inside a pool of the VpnNetwork',
  },
  AddressConflict: {
    code: 'OVPN108',
    meaning: 'An address is taken by another peer or a node.',
    remedy: 'give one of the two another address',
  },
  RouteConflict: {
    code: 'OVPN109',
    meaning: 'A route overlaps a route of another peer, a pool, or what peers reach of the cluster.',
    remedy: 'remove the route from one of the two peers, or make the routes disjoint',
  },
  NotAllowed: {
    code: 'OVPN110',
    meaning: 'The owner of the VpnNetwork does not allow it.',
    remedy: 'have the owner of the VpnNetwork allow it, or ask for less',
  },
  PeerIdConflict: {
    code: 'OVPN111',
    meaning: 'Two peers of a network claim the same peer id.',
    remedy: 'give one of the two peers another peerID',
  },
  ApiUnavailable: {
    code: 'OVPN112',
    meaning: 'The API server cannot be reached or refuses.',
    remedy: 'check the API server and the RBAC rules of the agent; what runs goes on',
  },
  IdentityConflict: {
    code: 'OVPN113',
    meaning: 'Two peers of a network that dial in have the same identity.',
    remedy: 'give one of the two peers another identity, or delete one',
  },
  PkiMissing: {
    code: 'OVPN114',
    meaning: 'A peer dials in, and its VpnNetwork has no certificate to answer with.',
    remedy: "give the VpnNetwork spec.pki with the server's certificate and the CA of its clients",
  },
  IdentityNotIssued: {
    code: 'OVPN118',
    meaning: 'A peer is named in a way that its VpnNetwork issues no certificates by.',
    remedy: 'name a VpnKey in spec.identity.key where the network has spec.pki.builtIn, and only there',
  },
  AddressPending: {
    code: 'OVPN115',
    meaning: 'A peer that dials in, or a node, has no VPN address yet.',
    remedy: 'wait for the controller to give it one, and see that it runs; where there is none, set spec.addresses',
  },
  PoolFull: {
    code: 'OVPN116',
    meaning: 'All numbers or blocks of a pool are held.',
    remedy: 'delete what is not needed, or give the VpnNetwork a larger pool',
  },

  SecretMissing: {
    code: 'OVPN201',
    meaning: 'The Secret of a key is not there, or has no such entry.',
    remedy: 'create the Secret with that key, or correct secretRef',
  },
  KeyMaterialInvalid: {
    code: 'OVPN202',
    meaning: 'The Secret holds something that is not a usable static key.',
    remedy: 'put in a key made by `openvpn --genkey secret FILE`',
  },
  KeySpent: {
    code: 'OVPN203',
    meaning: 'This generation of a static key was installed before; a second time would repeat nonces.',
    remedy: 'raise spec.static.generation by one on both ends',
  },
  CertificateInvalid: {
    code: 'OVPN205',
    meaning: 'A Secret holds no usable certificate, private key, CA or CRL.',
    remedy: 'put in a certificate, its private key without a passphrase, and the CA, all in PEM',
  },
  LedgerUnusable: {
    code: 'OVPN204',
    meaning: 'The ledger of spent keys cannot be read or written; no key is installed.',
    remedy: 'restore the ledger file or move it away and raise every generation',
  },

  KernelWithoutOvpn: {
    code: 'OVPN301',
    meaning: 'The kernel has no ovpn driver.',
    remedy: 'boot Linux 6.16 or newer with CONFIG_OVPN, or load the module: modprobe ovpn',
  },
  NotPermitted: {
    code: 'OVPN302',
    meaning: 'The agent lacks privileges.',
    remedy: 'run as root with CAP_NET_ADMIN in the initial user namespace',
  },
  KernelRefused: {
    code: 'OVPN303',
    meaning: 'The kernel refused a request; its own words are in the message.',
    remedy: "follow the kernel's text; the agent retries with back-off",
  },
  NamespaceUnusable: {
    code: 'OVPN304',
    meaning: 'A network namespace is missing, not one, or not what it should be.',
    remedy: 'check that the network namespace exists and is a namespace',
  },
  ForwardingDisabled: {
    code: 'OVPN305',
    meaning: 'A network has clusterAccess, and the node does not forward packets of that IP family.',
    remedy: 'switch forwarding on at the node, as Kubernetes wants it: sysctl -w net.ipv4.ip_forward=1',
  },

  AgentUnreachable: {
    code: 'OVPN401',
    meaning: 'The CNI plugin or the command line gets no answer from the agent.',
    remedy: 'check that the node agent runs on this node; the runtime retries',
  },
  AgentProtocol: {
    code: 'OVPN402',
    meaning: "The two ends of the agent's socket do not understand each other.",
    remedy: 'bring the plugin and the agent to the same version',
  },
  HolderUnreachable: {
    code: 'OVPN403',
    meaning: 'The socket holder does not answer.',
    remedy: 'start the socket holder (ovpn-agent holder); the agent retries',
  },
  StateUnusable: {
    code: 'OVPN404',
    meaning: 'The state folder cannot be used.',
    remedy: 'check the state folder: it must be writable by root and on a local disk',
  },
  AgentInternal: {
    code: 'OVPN406',
    meaning: 'A defect of the agent.',
    remedy: "look at the agent's log and report the defect; the runtime retries",
  },
  RemoteUnsuitable: {
    code: 'OVPN407',
    meaning: 'A dialled server works in a way that the tunnel cannot follow.',
    remedy: 'change the configuration of the remote server',
  },
  ConfigInvalid: { code: 'OVPN405', meaning: 'An option is wrong.', remedy: 'correct the option; see --help' },

  CniConfigInvalid: {
    code: 'OVPN501',
    meaning: 'The network configuration of the plugin is wrong.',
    remedy: 'correct the network configuration of the ovpn-cni plugin',
  },
  CniEnvironmentInvalid: {
    code: 'OVPN502',
    meaning: 'The CNI_* variables are wrong.',
    remedy: 'call the plugin by a CNI runtime, or set the CNI_* variables as the spec says',
  },
  NetworkNotReady: {
    code: 'OVPN503',
    meaning: 'The network is not there, or not yet, on this node.',
    remedy: 'wait until the VpnNetwork is Ready on this node, or create it',
  },
  AttachNotAllowed: {
    code: 'OVPN504',
    meaning: 'The owner of the network does not let this pod join.',
    remedy: 'have the owner of the VpnNetwork allow the pod in spec.attach',
  },
  PodUnknown: {
    code: 'OVPN506',
    meaning: 'The API server does not know the pod that starts, or another one has its name.',
    remedy: 'wait until the API server knows the pod; the runtime retries',
  },
  AttachmentDeviates: {
    code: 'OVPN507',
    meaning: "An attached pod's interface is not as it was made; the message names every deviation.",
    remedy: 'look who changed it; the agent mends its own part with its next round, and a new pod is as it should be',
  },
  IpamFailed: {
    code: 'OVPN508',
    meaning: 'The IPAM plugin that the CNI configuration names failed, or allocated no address.',
    remedy: 'correct the ipam section, or look at what its plugin needs',
  },
  CniInstallFailed: {
    code: 'OVPN509',
    meaning: "The plugin's file or its place in the configuration list could not be put on the node.",
    remedy: "correct the file, or see that the folder is the container runtime's and that root can write to it",
  },
  PoolExhausted: {
    code: 'OVPN505',
    meaning: 'The node has no free pod address.',
    remedy: 'delete unused pods or give the node a larger pod block',
  },

  NotInstalled: {
    code: 'OVPN601',
    meaning: 'The cluster does not have the resources of the operator.',
    remedy: 'install the operator, or choose the cluster that has it with --context or --kubeconfig',
  },
  AccessDenied: {
    code: 'OVPN602',
    meaning: 'You lack a right that `kubectl ovpn` needs; the message names it.',
    remedy: 'have an administrator give you that right, or look at a namespace of yours with -n',
  },
  ObjectNotFound: {
    code: 'OVPN603',
    meaning: 'An object that `kubectl ovpn` was asked for is not there.',
    remedy: 'correct the name, or the namespace with -n',
  },
  ProfileMissing: {
    code: 'OVPN604',
    meaning: 'There is no profile for the client of the VpnPeer; the message says why.',
    remedy: 'see `kubectl ovpn status`',
  },
  QrTooLarge: {
    code: 'OVPN605',
    meaning: 'The profile does not fit into a QR code, or the QR code not into the terminal.',
    remedy: 'print the profile into a file, and bring that to the device: `kubectl ovpn profile NAME > NAME.ovpn`',
  },
  PodUnsuitable: {
    code: 'OVPN610',
    meaning: 'The pod is on no node, has ended, or is on the network of its node: no VPN has to do with it.',
    remedy: 'name a pod that runs and has a network of its own',
  },
  AgentAbsent: {
    code: 'OVPN611',
    meaning: 'On the node that was asked about runs no agent that could answer.',
    remedy: 'see by `kubectl ovpn doctor` why, and which nodes have one',
  },
  ExecFailed: {
    code: 'OVPN612',
    meaning: 'A command in a pod of the operator could not be run, or gave no answer that can be understood.',
    remedy: 'see that the pod runs and that its version is that of this program, then try again',
  },
} as const satisfies Readonly<Record<string, ErrorRow>>;

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
