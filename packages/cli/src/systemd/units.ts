/** The units of systemd for the agent and the API, as text made of checked values. */
import { WrennError } from '@wrenn/protocol';
import { API_UID } from '../api-user.ts';

export const AGENT_UNIT = 'wrenn-agent.service';
export const API_UNIT = 'wrenn-api.service';
export const API_USER = 'wrenn-api';
export const API_ENV_FILE = '/etc/wrenn/api.env';

export interface UnitSettings {
  /** Absolute: Node, and the file that it runs as `wrenn`. */
  readonly node: string;
  readonly program: string;
  /** Of the agent, which the API waits for. */
  readonly socketPath: string;
  /** Where the API keeps its store; its own. */
  readonly apiDir: string;
  /** May be lower than those that every user may open. */
  readonly port: number;
  /** What tells each where its configuration lies, and what is above it. */
  readonly agentEnvironment: Readonly<Record<string, string>>;
  readonly apiEnvironment: Readonly<Record<string, string>>;
}

export interface UnitFile {
  readonly path: string;
  readonly text: string;
}

type Section = readonly (readonly [key: string, value: string])[];

export function unitPath(unit: string): string {
  return `/etc/systemd/system/${unit}`;
}

/** What is written, the users' file first. */
export function unitFiles(settings: UnitSettings): UnitFile[] {
  const users = `# The API's user, and by its group the agent's socket.\nu ${API_USER} ${API_UID} "Wrenn API" ${word(settings.apiDir)}\n`;
  return [
    { path: '/etc/sysusers.d/wrenn.conf', text: users },
    { path: unitPath(AGENT_UNIT), text: agentUnit(settings) },
    { path: unitPath(API_UNIT), text: apiUnit(settings) },
  ];
}

function agentUnit({ node, program, agentEnvironment }: UnitSettings): string {
  return render('Runs microVMs. They outlive it, and the next one finds them.', {
    Unit: [
      ['Description', 'Wrenn host agent'],
      ['After', 'network.target'],
      // It fails for as long as another agent is there, as one that a command has started.
      ['StartLimitIntervalSec', '0'],
    ],
    Service: [
      ['ExecStart', `${word(node)} ${word(program)} agent`],
      ['Environment', `WRENN_SOCKET_GID=${API_UID}`],
      ...variables(agentEnvironment),
      ['EnvironmentFile', '-/etc/wrenn/agent.env'],
      // Only the agent itself: its microVMs stay.
      ['KillMode', 'process'],
      ['Delegate', 'yes'],
      ['Restart', 'on-failure'],
      ['RestartSec', '2'],
      ['TimeoutStopSec', '90'],
      ['LimitNOFILE', '1048576'],
      ['TasksMax', 'infinity'],
      // Its microVMs' memory is bounded by groups of their own; it is the last that should go.
      ['OOMScoreAdjust', '-500'],
      // What the kernel ends of it is a microVM: that is no reason to end the agent.
      ['OOMPolicy', 'continue'],
    ],
    Install: [['WantedBy', 'multi-user.target']],
  });
}

function apiUnit({ node, program, socketPath, apiDir, port, apiEnvironment }: UnitSettings): string {
  for (const path of [node, program, socketPath, apiDir, ...Object.values(apiEnvironment)]) checkSeen(path);
  const capabilities = port > 0 && port < 1024 ? 'CAP_NET_BIND_SERVICE' : '';
  return render('The REST API and the edge. May be restarted at any time.', {
    Unit: [
      ['Description', 'Wrenn API'],
      ['After', `network-online.target ${AGENT_UNIT}`],
      ['Wants', `network-online.target ${AGENT_UNIT}`],
      // The agent may take its time to come up.
      ['StartLimitIntervalSec', '0'],
    ],
    Service: [
      ['ExecStart', `${word(node)} ${word(program)} api --quiet`],
      ['ExecReload', '/bin/kill -HUP $MAINPID'],
      ['Environment', `WRENN_SOCKET=${word(socketPath)}`],
      ...variables(apiEnvironment),
      ['EnvironmentFile', `-${API_ENV_FILE}`],
      ['User', API_USER],
      ['Group', API_USER],
      ['Restart', 'always'],
      ['RestartSec', '2'],
      ['TimeoutStopSec', '30'],
      ['LimitNOFILE', '65536'],
      ['NoNewPrivileges', 'yes'],
      ['CapabilityBoundingSet', capabilities],
      ['AmbientCapabilities', capabilities],
      ['ProtectSystem', 'strict'],
      ['ReadWritePaths', word(apiDir)],
      ['ProtectHome', 'read-only'],
      ['PrivateTmp', 'yes'],
      ['PrivateDevices', 'yes'],
      ['ProtectProc', 'invisible'],
      ['ProtectClock', 'yes'],
      ['ProtectHostname', 'yes'],
      ['ProtectKernelLogs', 'yes'],
      ['ProtectKernelModules', 'yes'],
      ['ProtectKernelTunables', 'yes'],
      ['ProtectControlGroups', 'yes'],
      ['RestrictAddressFamilies', 'AF_UNIX AF_INET AF_INET6 AF_NETLINK'],
      ['RestrictNamespaces', 'yes'],
      ['RestrictRealtime', 'yes'],
      ['RestrictSUIDSGID', 'yes'],
      ['LockPersonality', 'yes'],
      ['SystemCallArchitectures', 'native'],
      ['SystemCallFilter', '@system-service'],
      ['SystemCallErrorNumber', 'EPERM'],
      // No MemoryDenyWriteExecute: Node and the embedded store compile at run time.
    ],
    Install: [['WantedBy', 'multi-user.target']],
  });
}

function variables(environment: Readonly<Record<string, string>>): Section {
  return Object.entries(environment).map(
    ([name, text]) => ['Environment', `${name}=${value(text)}`] as const,
  );
}

/** By PrivateTmp. */
function checkSeen(path: string): void {
  if (!/^\/(var\/)?tmp(\/|$)/.test(path)) return;
  throw new WrennError(
    'invalid_path',
    `The API as a service does not see ${path}: it has a /tmp of its own.`,
    {
      hint: 'Use a path elsewhere, as in /run or /var/lib.',
    },
  );
}

function render(about: string, sections: Readonly<Record<string, Section>>): string {
  const parts = Object.entries(sections).map(([name, lines]) =>
    [`[${name}]`, ...lines.map(([key, value]) => `${key}=${value}`), ''].join('\n'),
  );
  return [
    `# ${about} Written by \`wrenn install\`; changes belong in a drop-in (systemctl edit).`,
    ...parts,
  ].join('\n');
}

/** As one word of a unit, which has quotes, escapes, specifiers and variables of its own: none of them is let in. */
function word(path: string): string {
  return checked(path, /^\/[A-Za-z0-9_@+,./-]*$/, 'Use a path of letters, digits and - _ . / alone.');
}

/** Of a variable: a path, a name, or a host with its port. */
function value(text: string): string {
  return checked(text, /^[A-Za-z0-9_@+,.:/-]+$/, 'Use letters, digits and - _ . : / alone.');
}

function checked(text: string, allowed: RegExp, hint: string): string {
  if (allowed.test(text)) return text;
  throw new WrennError('invalid_path', `${JSON.stringify(text)} cannot stand in a unit of systemd.`, {
    hint,
  });
}
