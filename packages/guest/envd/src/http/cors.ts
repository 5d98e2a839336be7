/**
 * Pages may speak to envd from wherever they come, as to E2B's: the SDK runs in browsers, and so do signed URLs. A browser
 * asks first, without a token, and shows answers only where they allow it. That opens nothing: there are no cookies
 * that a browser would send by itself, and whoever has the token may use it from anywhere.
 *
 * Imported by server.ts: nothing here may cost start-up time.
 */
import { noContent } from './respond.ts';

const MAX_AGE_S = 2 * 60 * 60;

/** What a browser wants to know before a request: all that it asks for is allowed. */
export function preflight(request: Request): Response {
  return noContent({
    'Access-Control-Allow-Methods': 'GET, HEAD, POST, PUT, PATCH, DELETE',
    // By their names: `*` would leave out Authorization.
    'Access-Control-Allow-Headers': request.headers.get('Access-Control-Request-Headers') ?? '*',
    'Access-Control-Max-Age': String(MAX_AGE_S),
    Vary: 'Access-Control-Request-Headers',
  });
}

/** The answer, as one that pages may read with all its headers. */
export function forPages(response: Response): Response {
  response.headers.set('Access-Control-Allow-Origin', '*');
  response.headers.set('Access-Control-Expose-Headers', '*');
  return response;
}
