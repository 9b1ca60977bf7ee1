// Where the page's text comes from: here the service at its own address. In a folder of `slt-serve --static`, a file of
// the same name has the same exports.
export { Session } from "./camera.js";

// {status, error, model, sample} for a `token`. Raises where nobody answers.
export async function describe(token) {
  const answer = await fetch("v1/models", { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  const { error, models, sample } = await answer.json();
  return { status: answer.status, error, model: models?.[0], sample };
}

// Whether a session may begin. Raises with a message for people if none ever will.
export const isReady = async () => Boolean((await fetch("readyz").catch(() => null))?.ok);
