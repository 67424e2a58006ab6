//! The closed table of the methods that the gate knows.
//!
//! A path that is not here has no [`Method`], so it cannot be authorized and cannot go upstream. That
//! `build.buildgrid.LocalContentAddressableStorage` is not here is what keeps it shut: no configuration can name it.

use super::rights::{Right, Rights};

/// The services that the configuration routes, each a group of gRPC services that one backend must serve together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Service {
    /// `ContentAddressableStorage` and `google.bytestream.ByteStream`.
    Cas,
    /// `ActionCache`.
    ActionCache,
    /// Remote Asset `Fetch` and `Push`.
    Asset,
    /// `Execution` and `google.longrunning.Operations`.
    Execution,
    /// `Capabilities`; goes where `cas` goes unless a route says otherwise.
    Capabilities,
    /// Remote workers `Bots` and `LogStreamService`.
    Workers,
    /// `google.devtools.build.v1.PublishBuildEvent`.
    Events,
    /// `buildstream.v2.ReferenceStorage`, spoken by the gate itself on top of Remote Asset.
    ReferenceStorage,
    /// `grpc.health.v1.Health`, answered by the gate itself.
    Health,
}

impl Service {
    /// Every service that a route may name.
    pub const ROUTED: [Service; 7] = [
        Service::Cas,
        Service::ActionCache,
        Service::Asset,
        Service::Execution,
        Service::Capabilities,
        Service::Workers,
        Service::Events,
    ];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Service::Cas => "cas",
            Service::ActionCache => "action-cache",
            Service::Asset => "asset",
            Service::Execution => "execution",
            Service::Capabilities => "capabilities",
            Service::Workers => "workers",
            Service::Events => "events",
            Service::ReferenceStorage => "reference-storage",
            Service::Health => "health",
        }
    }
}

/// Where a call says which instance it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceIn {
    /// A string field of the first message holds the instance name.
    Field(u32),
    /// A ByteStream resource name in field 1, of the given kind.
    ResourceName(ResourceKind),
    /// The message has only a name in the server's own syntax. Rights that are limited to instances do not reach
    /// such a method, since nobody but the server knows which instance it would touch.
    Unknown,
}

/// Which form of ByteStream resource name a method takes (remote_execution.proto, `service ContentAddressableStorage`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    /// `[INSTANCE/]blobs/..` or `[INSTANCE/]compressed-blobs/..`
    Read,
    /// `[INSTANCE/]uploads/UUID/..`
    Write,
}

/// How many messages the client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requests {
    /// Exactly one.
    One,
    /// A stream of them.
    Stream,
}

macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident = $service:literal / $name:literal, $group:ident, $requests:ident,
        $instance:expr, $uris:expr, $rights:expr;)*) => {
        /// A method that the gate knows. Closed: there is no other way to a backend than one of these.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Method { $($(#[$doc])* #[doc = concat!("`", $service, "/", $name, "`")] $variant,)* }

        impl Method {
            /// Every method, in the order of the table.
            pub const ALL: &'static [Method] = &[$(Method::$variant),*];

            /// The method of an HTTP/2 `:path`, which must be exactly `/package.Service/Method`.
            pub fn from_path(path: &str) -> Option<Method> {
                match path { $(concat!("/", $service, "/", $name) => Some(Method::$variant),)* _ => None }
            }

            /// The `:path` of the method.
            pub const fn path(self) -> &'static str {
                match self { $(Method::$variant => concat!("/", $service, "/", $name),)* }
            }

            /// The full name of its gRPC service.
            pub const fn grpc_service(self) -> &'static str {
                match self { $(Method::$variant => $service,)* }
            }

            /// Its name within the service.
            pub const fn name(self) -> &'static str {
                match self { $(Method::$variant => $name,)* }
            }

            /// The group by which it is routed.
            pub const fn service(self) -> Service {
                match self { $(Method::$variant => Service::$group,)* }
            }

            /// How many messages a client sends.
            pub const fn requests(self) -> Requests {
                match self { $(Method::$variant => Requests::$requests,)* }
            }

            /// Where its request names the instance.
            pub const fn instance_in(self) -> InstanceIn {
                match self { $(Method::$variant => $instance,)* }
            }

            /// The field of the first message that holds the URIs of Remote Asset (remote_asset.proto: `uris`).
            pub const fn uris_in(self) -> Option<u32> {
                match self { $(Method::$variant => $uris,)* }
            }

            /// A caller with any one of these rights may call it. Empty: everybody who got this far may, and the gate
            /// answers by itself.
            pub const fn rights(self) -> Rights {
                match self { $(Method::$variant => $rights,)* }
            }
        }
    };
}

use InstanceIn::{Field, ResourceName, Unknown};

const PULL: Rights = Rights::of(Right::Pull);
const CAS_PUSH: Rights = Rights::of(Right::CasPush);
const ACTION_PUSH: Rights = Rights::of(Right::ActionPush);
const ASSET_PUSH: Rights = Rights::of(Right::AssetPush);
const EXECUTE: Rights = Rights::of(Right::Execute);
const WORKER: Rights = Rights::of(Right::Worker);
const EVENTS: Rights = Rights::of(Right::Events);
const ADMIN: Rights = Rights::of(Right::Admin);

methods! {
    GetCapabilities = "build.bazel.remote.execution.v2.Capabilities" / "GetCapabilities",
        Capabilities, One, Field(1), None, Rights::ALL;
    /// A pull method as well: casd checks every action result with it.
    FindMissingBlobs = "build.bazel.remote.execution.v2.ContentAddressableStorage" / "FindMissingBlobs",
        Cas, One, Field(1), None, PULL.union(CAS_PUSH);
    BatchReadBlobs = "build.bazel.remote.execution.v2.ContentAddressableStorage" / "BatchReadBlobs",
        Cas, One, Field(1), None, PULL;
    GetTree = "build.bazel.remote.execution.v2.ContentAddressableStorage" / "GetTree",
        Cas, One, Field(1), None, PULL;
    SplitBlob = "build.bazel.remote.execution.v2.ContentAddressableStorage" / "SplitBlob",
        Cas, One, Field(1), None, PULL;
    BatchUpdateBlobs = "build.bazel.remote.execution.v2.ContentAddressableStorage" / "BatchUpdateBlobs",
        Cas, One, Field(1), None, CAS_PUSH;
    SpliceBlob = "build.bazel.remote.execution.v2.ContentAddressableStorage" / "SpliceBlob",
        Cas, One, Field(1), None, CAS_PUSH;
    Read = "google.bytestream.ByteStream" / "Read",
        Cas, One, ResourceName(ResourceKind::Read), None, PULL;
    Write = "google.bytestream.ByteStream" / "Write",
        Cas, Stream, ResourceName(ResourceKind::Write), None, CAS_PUSH;
    QueryWriteStatus = "google.bytestream.ByteStream" / "QueryWriteStatus",
        Cas, One, ResourceName(ResourceKind::Write), None, CAS_PUSH;
    GetActionResult = "build.bazel.remote.execution.v2.ActionCache" / "GetActionResult",
        ActionCache, One, Field(1), None, PULL;
    UpdateActionResult = "build.bazel.remote.execution.v2.ActionCache" / "UpdateActionResult",
        ActionCache, One, Field(1), None, ACTION_PUSH;
    Execute = "build.bazel.remote.execution.v2.Execution" / "Execute",
        Execution, One, Field(1), None, EXECUTE;
    WaitExecution = "build.bazel.remote.execution.v2.Execution" / "WaitExecution",
        Execution, One, Unknown, None, EXECUTE;
    GetOperation = "google.longrunning.Operations" / "GetOperation",
        Execution, One, Unknown, None, EXECUTE;
    WaitOperation = "google.longrunning.Operations" / "WaitOperation",
        Execution, One, Unknown, None, EXECUTE;
    CancelOperation = "google.longrunning.Operations" / "CancelOperation",
        Execution, One, Unknown, None, EXECUTE;
    /// Shows the work of every user.
    ListOperations = "google.longrunning.Operations" / "ListOperations",
        Execution, One, Unknown, None, ADMIN;
    DeleteOperation = "google.longrunning.Operations" / "DeleteOperation",
        Execution, One, Unknown, None, ADMIN;
    FetchBlob = "build.bazel.remote.asset.v1.Fetch" / "FetchBlob",
        Asset, One, Field(1), Some(4), PULL.with(Right::FetchRemote);
    FetchDirectory = "build.bazel.remote.asset.v1.Fetch" / "FetchDirectory",
        Asset, One, Field(1), Some(4), PULL.with(Right::FetchRemote);
    PushBlob = "build.bazel.remote.asset.v1.Push" / "PushBlob",
        Asset, One, Field(1), Some(2), ASSET_PUSH;
    PushDirectory = "build.bazel.remote.asset.v1.Push" / "PushDirectory",
        Asset, One, Field(1), Some(2), ASSET_PUSH;
    CreateLogStream = "build.bazel.remote.logstream.v1.LogStreamService" / "CreateLogStream",
        Workers, One, Unknown, None, WORKER;
    CreateBotSession = "google.devtools.remoteworkers.v1test2.Bots" / "CreateBotSession",
        Workers, One, Field(1), None, WORKER;
    UpdateBotSession = "google.devtools.remoteworkers.v1test2.Bots" / "UpdateBotSession",
        Workers, One, Unknown, None, WORKER;
    PublishLifecycleEvent = "google.devtools.build.v1.PublishBuildEvent" / "PublishLifecycleEvent",
        Events, One, Unknown, None, EVENTS;
    PublishBuildToolEventStream = "google.devtools.build.v1.PublishBuildEvent" / "PublishBuildToolEventStream",
        Events, Stream, Unknown, None, EVENTS;
    GetReference = "buildstream.v2.ReferenceStorage" / "GetReference",
        ReferenceStorage, One, Field(1), None, PULL;
    UpdateReference = "buildstream.v2.ReferenceStorage" / "UpdateReference",
        ReferenceStorage, One, Field(1), None, ASSET_PUSH;
    Status = "buildstream.v2.ReferenceStorage" / "Status",
        ReferenceStorage, One, Field(1), None, Rights::ALL;
    HealthCheck = "grpc.health.v1.Health" / "Check",
        Health, One, Unknown, None, Rights::NONE;
    HealthWatch = "grpc.health.v1.Health" / "Watch",
        Health, One, Unknown, None, Rights::NONE;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_method_is_its_place() {
        for (place, method) in Method::ALL.iter().enumerate() {
            assert_eq!(*method as usize, place, "{method:?}");
        }
    }

    #[test]
    fn every_method_is_found_by_its_exact_path_only() {
        for method in Method::ALL {
            let path = method.path();
            assert_eq!(Method::from_path(path), Some(*method));
            assert_eq!(path, format!("/{}/{}", method.grpc_service(), method.name()));
            for near in [
                format!("{path}/"),
                format!("/{path}"),
                path.to_lowercase(),
                format!("{path}?x=1"),
                path[1..].to_owned(),
            ] {
                assert_eq!(Method::from_path(&near), None, "{near}");
            }
        }
    }

    #[test]
    fn host_files_of_casd_have_no_method() {
        for name in [
            "CaptureFiles",
            "CaptureTree",
            "StageTree",
            "FetchTree",
            "GetInstanceNameForRemotes",
        ] {
            let path = format!("/build.buildgrid.LocalContentAddressableStorage/{name}");
            assert_eq!(Method::from_path(&path), None);
        }
    }

    #[test]
    fn only_what_the_gate_answers_itself_needs_no_right() {
        for method in Method::ALL {
            assert_eq!(
                method.rights().is_empty(),
                method.service() == Service::Health,
                "{method:?}"
            );
        }
    }
}
