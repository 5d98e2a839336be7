/** What is in the templates that Wrenn builds by itself. */

export type TemplateName = 'minimal' | 'base';
export const TEMPLATE_NAMES: readonly TemplateName[] = ['minimal', 'base'];

export interface Recipe {
  readonly name: TemplateName;
  readonly title: string;
  /** Debian packages on top of the essential ones. */
  readonly packages: readonly string[];
  /** What building it takes on the disk at its widest: the tree and the image. */
  readonly buildBytes: number;
}

/** What every template has: a shell with an account that may become root, and the tools of an SDK's calls. */
const COMMON = [
  'bash-completion',
  'ca-certificates',
  'curl',
  'git',
  'iproute2',
  'iputils-ping',
  'locales',
  'netbase',
  'procps',
  'sudo',
] as const;

export const RECIPES: Readonly<Record<TemplateName, Recipe>> = {
  minimal: {
    name: 'minimal',
    title: 'a small Debian, for tests and for programs that bring what they need',
    packages: [...COMMON, 'python3-minimal'],
    buildBytes: 1.5 * 2 ** 30,
  },
  base: {
    name: 'base',
    title: "what E2B's base offers: Python, Node, git, compilers",
    packages: [
      ...COMMON,
      'build-essential',
      'file',
      'gnupg',
      'jq',
      'less',
      'lsof',
      'nano',
      'net-tools',
      'nodejs',
      'npm',
      'openssh-client',
      'pkg-config',
      'python3',
      'python3-dev',
      'python3-pip',
      'python3-venv',
      'rsync',
      'socat',
      'unzip',
      'vim-tiny',
      'wget',
      'xz-utils',
      'zip',
    ],
    buildBytes: 4 * 2 ** 30,
  },
};
