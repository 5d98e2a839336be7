export { type Api, type ApiDeps, createApi } from './api.ts';
export {
  type ApiConfig,
  type ApiConfigInput,
  apiConfigFromEnv,
  parseApiConfig,
} from './config/schema.ts';
export type { EdgeDirectory, EdgeTarget } from './directory.ts';
export { createEdge, type Edge, type EdgeOptions } from './edge/edge.ts';
export { tuneHeap } from './heap.ts';
export { createApiLogger, type Logger } from './log.ts';
export { openStore, type Store } from './store/index.ts';
export type { ApiKey, NewApiKey } from './store/keys.ts';
export { type Certificates, DEVELOPMENT_DOMAIN, openCertificates } from './tls/certificates.ts';
