"""Calls that a test makes with grpcio.

usage: probe.py TARGET CA CERTIFICATE STEP [ARGUMENT..]

CA is a PEM file; CERTIFICATE is the path of a .crt and a .key without those ends; `-` for both makes clear calls.
"""

import hashlib
import sys
import uuid

import grpc

from buildstream._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from buildstream._protos.build.bazel.remote.execution.v2 import remote_execution_pb2_grpc as reapi_grpc
from buildstream._protos.build.buildgrid import local_cas_pb2, local_cas_pb2_grpc
from buildstream._protos.google.bytestream import bytestream_pb2, bytestream_pb2_grpc

CHUNK = bytes(range(256)) * 256  # 64 KiB


def connect(target, ca, certificate):
    if ca == "-":
        return grpc.insecure_channel(target)
    read = lambda path: open(path, "rb").read()
    credentials = grpc.ssl_channel_credentials(read(ca), read(certificate + ".key"), read(certificate + ".crt"))
    return grpc.secure_channel(target, credentials)


def report(call):
    try:
        print("OK", call())
    except grpc.RpcError as error:
        print(error.code().name, error.details())


def local_cas(channel):
    stub = local_cas_pb2_grpc.LocalContentAddressableStorageStub(channel)
    report(lambda: stub.CaptureFiles(local_cas_pb2.CaptureFilesRequest(path=["/etc/hostname"]), timeout=20))
    report(lambda: stub.GetLocalServerDetails(local_cas_pb2.GetLocalServerDetailsRequest(), timeout=20))
    report(lambda: stub.FetchMissingBlobs(local_cas_pb2.FetchMissingBlobsRequest(), timeout=20))


def capabilities(channel):
    answer = reapi_grpc.CapabilitiesStub(channel).GetCapabilities(reapi.GetCapabilitiesRequest(), timeout=20)
    print(f"update_enabled={answer.cache_capabilities.action_cache_update_capabilities.update_enabled}")


def digest(size):
    sha256 = hashlib.sha256()
    for _ in range(size // len(CHUNK)):
        sha256.update(CHUNK)
    return sha256.hexdigest()


def write(channel, hash_, size, sent):
    def requests():
        name = f"uploads/{uuid.uuid4()}/blobs/{hash_}/{size}"
        for offset in range(0, size, len(CHUNK)):
            sent[0] = offset
            end = offset + len(CHUNK) == size
            yield bytestream_pb2.WriteRequest(resource_name=name, write_offset=offset, data=CHUNK, finish_write=end)
            name = ""

    return bytestream_pb2_grpc.ByteStreamStub(channel).Write(requests(), timeout=240)


def denied_write(channel, mebibytes, times):
    size = int(mebibytes) << 20
    for _ in range(int(times)):
        sent = [0]
        try:
            write(channel, "0" * 64, size, sent)
            print(f"code=OK sent={sent[0]}")
        except grpc.RpcError as error:
            print(f"code={error.code().name} sent={sent[0]} {error.details()}")


def blob(channel, mebibytes):
    size = int(mebibytes) << 20
    hash_ = digest(size)
    answer = write(channel, hash_, size, [0])
    request = bytestream_pb2.ReadRequest(resource_name=f"blobs/{hash_}/{size}")
    sha256, read = hashlib.sha256(), 0
    for response in bytestream_pb2_grpc.ByteStreamStub(channel).Read(request, timeout=240):
        sha256.update(response.data)
        read += len(response.data)
    print(f"wrote={answer.committed_size} read={read} same={sha256.hexdigest() == hash_}")


STEPS = {
    "blob": blob,
    "capabilities": capabilities,
    "denied-write": denied_write,
    "local-cas": local_cas,
}

if __name__ == "__main__":
    target, ca, certificate, step, *arguments = sys.argv[1:]
    with connect(target, ca, certificate) as channel:
        STEPS[step](channel, *arguments)
