/** What other packages may know of envd: its version. It runs only inside of guests. */
export { ENVD_VERSION } from '@wrenn/protocol';
