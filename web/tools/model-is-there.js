/** Run by `npm publish`: a package without a model would draw nothing. */

import { existsSync } from "node:fs";

if (!existsSync(new URL("../model/recipe.json", import.meta.url))) {
  console.error("web/model/ holds no model; run `anime-ddpm export MODEL --onnx --output_dir web/model` first.");
  process.exitCode = 1;
}
