/** Imports point down only: the layers of ARCHITECTURE.md as rules. */

const upward = (from, ...mayImport) => ({
  name: `${from.replaceAll('/', '-')}-imports-only-down`,
  severity: 'error',
  from: { path: `^packages/${from}/src`, pathNot: '\\.test\\.ts$|/testing/|/fixtures/' },
  to: { path: '^packages/', pathNot: [from, ...mayImport].map((name) => `^packages/${name}/`) },
});

/** A room inside of the agent and those below it that it may import values from. */
const room = (name, ...mayImport) => ({
  name: `agent-${name}-imports-only-down`,
  severity: 'error',
  from: { path: `^packages/agent/src/${name}/`, pathNot: '\\.test\\.ts$|/testing/' },
  to: {
    path: '^packages/agent/src/',
    pathNot: [name, ...mayImport].map((other) => `^packages/agent/src/${other}/`),
    dependencyTypesNot: ['type-only'],
  },
});

module.exports = {
  forbidden: [
    upward('protocol'),
    upward('host', 'protocol'),
    upward('images', 'host', 'protocol'),
    upward('agent', 'images', 'host', 'protocol'),
    upward('api', 'host', 'protocol'),
    upward('cli', 'api', 'agent', 'images', 'host', 'protocol'),
    upward('guest/envd', 'protocol'),
    room('signals'),
    room('config'),
    room('vmm', 'signals'),
    room('network', 'signals'),
    room('storage', 'signals'),
    room('cgroups', 'signals'),
    room('envd-client', 'signals'),
    room('sandbox', 'vmm', 'network', 'storage', 'envd-client', 'signals', 'config'),
    {
      name: 'no-cycles',
      severity: 'error',
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    {
      name: 'nothing-unresolved',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true, pathNot: '^bun(:|$)' },
    },
    {
      name: 'no-test-tools-in-the-product',
      severity: 'error',
      from: {
        path: '^packages/[^/]+(/envd)?/src',
        pathNot: '\\.test\\.ts$|/testing/|/fixtures/|contract\\.ts$',
      },
      to: { path: 'node_modules/(vitest|fast-check|e2b|typescript)/' },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '/gen/|/dist/' },
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default', 'types'],
    },
  },
};
