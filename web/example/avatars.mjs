/** Write the faces of names as PNG files: `node example/avatars.mjs Ada Bob`. */

import { writeFile } from "node:fs/promises";
import { face } from "anime-ddpm-faces";

for (const name of process.argv.slice(2)) {
  const png = await face(name);
  await writeFile(`${name}.png`, Buffer.from(await png.arrayBuffer()));
}
