// What the file holds: facts as JSON, and packed columns; viewer/data.py describes the packing.

const PAGE_SIZE = 4096;

const about = JSON.parse(document.getElementById("about").textContent);

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// One column as a typed array wide enough for its numbers; removed from the document, which
// would otherwise keep its text in memory.
async function column(name) {
  const [count, width] = about.columns[name];
  const element = document.getElementById(`column-${name}`);
  const planes = await inflate(bytesOf(element.textContent.trim()));
  element.remove();
  if (width === 1) return planes;
  const Wide =
    width <= 1 ? Uint8Array : width <= 2 ? Uint16Array : width <= 4 ? Uint32Array : Float64Array;
  const numbers = new Wide(count);
  for (let plane = 0, factor = 1; plane < width; plane++, factor *= 256) {
    const start = plane * count;
    for (let i = 0; i < count; i++) numbers[i] += planes[start + i] * factor;
  }
  return numbers;
}
