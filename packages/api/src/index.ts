export type { EdgeDirectory, EdgeTarget } from './directory.ts';
export { createEdge, type Edge, type EdgeOptions } from './edge/edge.ts';
