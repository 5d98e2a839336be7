/** Answers of the plain HTTP routes. Every error body is `{code, message}`; SDKs read the code from it. */

export function noContent(headers: Record<string, string> = {}): Response {
  return new Response(null, { status: 204, headers: { 'Cache-Control': 'no-store', ...headers } });
}

export function json(value: unknown, status = 200): Response {
  return new Response(JSON.stringify(value), {
    status,
    headers: { 'Content-Type': 'application/json; charset=utf-8', 'Cache-Control': 'no-store' },
  });
}

export function errorJson(status: number, message: string): Response {
  return json({ code: status, message }, status);
}
