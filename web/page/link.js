/** The address of a face. It stands after #, which browsers do not send to the server. */

/** @import { Labels } from "../src/recipe.js" */
/** @typedef {{ name: string, labels: Labels }} Choice */

export const FIRST = "Ada";

/**
 * @param {string} hash with or without #
 * @returns {Choice}
 */
export function readChoice(hash) {
  const found = new URLSearchParams(hash.replace(/^#/, ""));
  const name = found.get("name") ?? FIRST;
  found.delete("name");
  return { name, labels: Object.fromEntries(found) };
}

/**
 * @param {Choice} choice
 * @returns {string} with #
 */
export function writeChoice({ name, labels }) {
  const chosen = Object.entries(labels).filter(([, value]) => value != null);
  return `#${new URLSearchParams([["name", name], .../** @type {[string, string][]} */ (chosen)])}`;
}
