/**
 * Where everything that microVMs boot from lies below WRENN_DIR. README.md documents every file.
 */
import { join } from 'node:path';

const DEFAULT_WRENN_DIR = '/var/lib/wrenn';

/** Wrenn's directory: `WRENN_DIR`, else /var/lib/wrenn. */
export function wrennDirFromEnv(): string {
  const fromEnv = process.env.WRENN_DIR;
  return fromEnv === undefined || fromEnv === '' ? DEFAULT_WRENN_DIR : fromEnv;
}

export interface Layout {
  readonly kernels: string;
  readonly guests: string;
  readonly templates: string;
  readonly cache: string;
  readonly kernel: (id: string) => string;
  readonly guest: (id: string) => string;
  readonly template: (buildId: string) => string;
  /** Small files that say which kernel, guest image or build of a template is the current one. */
  readonly currentKernel: string;
  readonly currentGuest: string;
  /** Machines of the laboratory (lab/), and which of them is the current one. */
  readonly labs: string;
  readonly currentLab: string;
  readonly templateName: (name: string) => string;
}

export function layoutOf(wrennDir: string): Layout {
  const kernels = join(wrennDir, 'kernels');
  const guests = join(wrennDir, 'guests');
  const templates = join(wrennDir, 'templates');
  const labs = join(wrennDir, 'labs');
  return {
    kernels,
    guests,
    templates,
    cache: join(wrennDir, 'cache'),
    kernel: (id) => join(kernels, id),
    guest: (id) => join(guests, id),
    template: (buildId) => join(templates, buildId),
    currentKernel: join(kernels, 'current.json'),
    currentGuest: join(guests, 'current.json'),
    labs,
    currentLab: join(labs, 'current.json'),
    templateName: (name) => join(templates, `${name}.json`),
  };
}
