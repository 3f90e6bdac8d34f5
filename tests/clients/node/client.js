// A gRPC client that finds its backends by xDS, and does what its standard input says.
//
// `call TARGET METHOD MILLISECONDS` answers `ok BACKEND` or `error CODE DETAILS`; `status` answers what
// the client believes: a `ClientStatusResponse` of CSDS, in hexadecimal digits. It ends with its input.
"use strict";

const readline = require("node:readline");
const grpc = require("@grpc/grpc-js");
const xds = require("@grpc/grpc-js-xds");

xds.register();

const insecure = grpc.credentials.createInsecure();
const bytes = (buffer) => buffer;
const channels = new Map();

function channel(uri) {
  if (!channels.has(uri)) channels.set(uri, new grpc.Client(uri, insecure));
  return channels.get(uri);
}

function request(client, path, milliseconds) {
  const deadline = new Date(Date.now() + milliseconds);
  return new Promise((resolve) => {
    const done = (error, answer) => resolve([error, answer]);
    client.makeUnaryRequest(path, bytes, bytes, Buffer.alloc(0), { deadline }, done);
  });
}

async function call(target, method, milliseconds) {
  const path = `/deltaplane.Backend/${method}`;
  const [error, answer] = await request(channel(`xds:///${target}`), path, Number(milliseconds));
  if (!error) return `ok ${answer}`;
  return `error ${grpc.status[error.code]} ${error.details.split(/\s+/).join(" ")}`;
}

// The package offers what it believes only as a service, so this program asks itself.
const admin = new Promise((resolve, reject) => {
  const server = new grpc.Server();
  grpc.addAdminServicesToServer(server);
  server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) =>
    error ? reject(error) : resolve(channel(`127.0.0.1:${port}`)));
});

async function status() {
  const path = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus";
  const [error, answer] = await request(await admin, path, 10_000);
  if (error) throw error;
  return answer.toString("hex");
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [verb, ...words] = line.split(" ");
    process.stdout.write(`${await { call, status }[verb](...words)}\n`);
  }
  process.exit();
}

main();
