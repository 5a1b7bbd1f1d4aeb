/** Names for the wall, of many countries. */

const NAMES = `Ada Akira Amélie Anouk Aoi Astrid Ayaan Beatriz Björn Bo Camila Chiyo Cosmo Dalia Daniel Dmitri Ebba Eiji
Elif Emeka Esra Eva Farid Finn Freya Gaia Grace Hana Haruki Hugo Ida Ines Ingrid Isla Iván Jade Jonas Jun Kaito Kamala
Keanu Kenji Khadija Kira Lan Leila Leon Linnea Lucía Luna Mai Malik Marek Mei Mika Milo Mina Nadia Naoki Nia Niko Noor
Nova Olga Omar Orla Oskar Paloma Petra Quinn Rafael Ren Rin Rosa Ruby Sakura Samir Sanna Sena Shiro Sofia Soren Suki
Tala Tariq Theo Tomoe Uma Valentina Vera Wei Willow Xenia Yara Yuki Yusuf Zara Zeno Zoë Žofia`;

export const WALL = NAMES.split(/\s+/);

/**
 * A name other than the one given.
 * @param {string} but
 */
export function anotherName(but) {
  const others = WALL.filter((name) => name !== but);
  return others[Math.floor(Math.random() * others.length)];
}
