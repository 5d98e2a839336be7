/**
 * What host and guest agree on. The guest's init (packages/guest/init) reads the same facts from the
 * kernel command line and from the order of the drives; change both sides together.
 */

/** Where envd listens inside of the guest. */
export const ENVD_PORT = 49983;

/**
 * The envd version that is reported to hosts and SDKs. SDKs switch features on by it: 0.6.4 is the
 * first that has all of what envd does (closing stdin, octet-stream uploads, file metadata, entries in watch events,
 * watching network mounts).
 */
export const ENVD_VERSION = '0.6.4';

/** The addresses inside of every sandbox's network namespace: the same for all, see docs/decisions. */
export const GUEST_ADDRESS = '169.254.0.21';
export const GUEST_GATEWAY = '169.254.0.22';
export const GUEST_PREFIX_LENGTH = 30;
export const GUEST_TAP_NAME = 'tap0';

/** Drives in the order in which every driver attaches them: /dev/vda, vdb, vdc. */
export const DRIVE_ORDER = ['base', 'guest', 'layer'] as const;
export type DriveId = (typeof DRIVE_ORDER)[number];

/** Init prints this line on the console when the kernel has handed over to it. */
export const CONSOLE_INIT_STARTED = 'wrenn-init: started';
/** Init prints this line when everything is mounted and envd is being started. */
export const CONSOLE_INIT_READY = 'wrenn-init: starting envd';

/** The guest's private settings, passed on the kernel command line as `wrenn.<name>=<value>`. */
export interface GuestSettings {
  readonly hostname: string;
  /** Name servers, as IPv4 addresses. */
  readonly nameservers: readonly string[];
}

/** The command-line words that carry the settings. Values never contain blanks; checked by their makers. */
export function guestCommandLine(settings: GuestSettings): string[] {
  return [
    `wrenn.hostname=${settings.hostname}`,
    `wrenn.address=${GUEST_ADDRESS}/${GUEST_PREFIX_LENGTH}`,
    `wrenn.gateway=${GUEST_GATEWAY}`,
    `wrenn.nameservers=${settings.nameservers.join(',')}`,
  ];
}
