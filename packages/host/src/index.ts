/** The only place that runs system programs: typed, with deadlines, never through a shell. */
export * from './command.ts';
export * from './files.ts';
export * from './process.ts';
