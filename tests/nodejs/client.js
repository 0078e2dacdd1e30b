// A client of magd that has the protos and nothing else of it: makes a mag, writes a box, reads it back, follows a
// compress operation to its end, reads again, and decodes the details of an error.
//
//   node client.js HOST:PORT|unix:PATH
//
// Prints one JSON object that says what it saw. Exits with 1 if a call fails that should not, or the voxels differ.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const here = dirname(fileURLToPath(import.meta.url));
const definition = protoLoader.loadSync(
  ["dataset", "errors", "operation", "types", "volume"]
    .map((name) => `magd/v1/${name}.proto`)
    .concat("error_status.proto"),
  {
    includeDirs: [join(here, "../../protos"), here],
    keepCase: true, // field names as in the protos
    enums: String,
    longs: Number,
    defaults: true,
    oneofs: true,
  },
);
const { magd } = grpc.loadPackageDefinition(definition);

const address = process.argv[2];
const credentials = grpc.credentials.createInsecure();
const datasets = new magd.v1.DatasetService(address, credentials);
const volumes = new magd.v1.VolumeService(address, credentials);
const operations = new magd.v1.OperationService(address, credentials);

const DATASET = "datasets/from-nodejs";
const LAYER = `${DATASET}/layers/color`;
const MAG = `${LAYER}/mags/1`;
const box = { offset: { x: 5, y: 60, z: 3 }, size: { x: 70, y: 33, z: 20 } };
const PART_BYTES = 40_000;

function deadline() {
  return { deadline: Date.now() + 30_000 };
}

/** Call a unary method of a client. */
function call(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, deadline(), (error, response) => (error ? reject(error) : resolve(response)));
  });
}

/** uint16 voxels that differ from their neighbours, x fastest, little-endian. */
function voxels() {
  const { x, y, z } = box.size;
  const data = Buffer.alloc(x * y * z * 2);
  for (let index = 0; index < x * y * z; index++) {
    data.writeUInt16LE((index * 31 + 7) % 65_536, index * 2);
  }
  return data;
}

/** Write the box: one header, then parts, each after the daemon has taken the one before. */
async function write(data) {
  let stream;
  const acknowledged = new Promise((resolve, reject) => {
    stream = volumes.WriteBox(deadline(), (error, response) => (error ? reject(error) : resolve(response)));
  });
  const send = (message) =>
    new Promise((resolve, reject) => stream.write(message, (error) => (error ? reject(error) : resolve())));
  const granted = new Promise((resolve) => stream.once("metadata", resolve));
  await send({
    name: MAG,
    box,
    data_type: "DATA_TYPE_UINT16",
    num_channels: 1,
    durability: "DURABILITY_DISK",
    request_id: randomUUID(),
  });
  // The daemon sends initial metadata when it has memory for the box; a refusal rejects `acknowledged`.
  await Promise.race([granted, acknowledged]);
  for (let start = 0; start < data.length; start += PART_BYTES) {
    await send({ data: data.subarray(start, start + PART_BYTES) });
  }
  stream.end();
  return acknowledged;
}

async function read() {
  const parts = [];
  let first;
  for await (const message of volumes.ReadBox({ name: MAG, box }, deadline())) {
    first ??= message;
    parts.push(message.data);
  }
  return { first, data: Buffer.concat(parts) };
}

/** Follow an operation until the daemon ends the stream. */
async function follow(name) {
  const states = [];
  let last;
  for await (const { operation } of operations.WatchOperation({ name }, deadline())) {
    last = operation;
    states.push(operation.state);
  }
  return { states, last };
}

/** What a failed call says, beyond its code: the google.rpc.Status in its trailers. */
function details(error) {
  const status = definition["google.rpc.Status"].deserialize(error.metadata.get("grpc-status-details-bin")[0]);
  const infos = status.details
    .filter((detail) => detail.type_url === "type.googleapis.com/google.rpc.ErrorInfo")
    .map((detail) => definition["google.rpc.ErrorInfo"].deserialize(detail.value));
  return { code: status.code, message: status.message, infos };
}

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("a call that should fail did not");
}

async function main() {
  await call(datasets, "CreateDataset", {
    dataset_id: "from-nodejs",
    voxel_size: { x: 11.24, y: 11.24, z: 28, unit: "nanometer" },
    request_id: randomUUID(),
  });
  await call(datasets, "CreateLayer", {
    parent: DATASET,
    layer_id: "color",
    category: "LAYER_CATEGORY_COLOR",
    data_type: "DATA_TYPE_UINT16",
    num_channels: 1,
    request_id: randomUUID(),
  });
  // Cube files of 64 voxels, so that the box lies in four of them.
  const { mag } = await call(datasets, "CreateMag", {
    parent: LAYER,
    factor: { x: 1, y: 1, z: 1 },
    block_len: 8,
    file_len: 8,
    block_type: "BLOCK_TYPE_RAW",
    request_id: randomUUID(),
  });
  assert.equal(mag.name, MAG);

  const data = voxels();
  const acknowledgement = await write(data);
  const before = await read();
  assert.ok(before.data.equals(data), "read other voxels than were written");

  const { operation } = await call(operations, "CompressMag", {
    name: MAG,
    level: { high: 9 },
    request_id: randomUUID(),
  });
  const followed = await follow(operation.name);
  const after = await read();
  assert.ok(after.data.equals(data), "read other voxels after the compression");
  const compressed = await call(datasets, "GetMag", { name: MAG });

  const missing = await failure(call(datasets, "GetMag", { name: `${LAYER}/mags/4` }));

  console.log(
    JSON.stringify({
      durability: acknowledgement.durability,
      revision: acknowledgement.revision,
      read: { box: before.first.box, data_type: before.first.data_type, num_channels: before.first.num_channels },
      states: followed.states,
      progress: followed.last.progress,
      result: followed.last.result,
      block_type: compressed.mag.block_type,
      error: { grpc_code: missing.code, ...details(missing) },
    }),
  );
}

await main();
for (const client of [datasets, volumes, operations]) {
  client.close();
}
