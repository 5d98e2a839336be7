/**
 * The envd version that is reported to hosts and SDKs. SDKs switch features on by it: 0.6.4 is the
 * first that has all of what this agent does (closing stdin, octet-stream uploads, file metadata,
 * entries in watch events, watching network mounts).
 */
export const ENVD_VERSION = '0.6.4';
