//! temporary until weir_api::cri lands
use std::collections::HashMap;
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxStateValue { #[prost(enumeration = "PodSandboxState", tag = "1")] pub state: i32 }
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PodSandboxState { SandboxReady = 0, SandboxNotready = 1 }
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxFilter { #[prost(string, tag = "1")] pub id: String, #[prost(message, optional, tag = "2")] pub state: Option<PodSandboxStateValue>, #[prost(map = "string, string", tag = "3")] pub label_selector: HashMap<String, String> }
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListPodSandboxRequest { #[prost(message, optional, tag = "1")] pub filter: Option<PodSandboxFilter> }
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandbox { #[prost(string, tag = "1")] pub id: String, #[prost(enumeration = "PodSandboxState", tag = "3")] pub state: i32, #[prost(int64, tag = "4")] pub created_at: i64 }
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListPodSandboxResponse { #[prost(message, repeated, tag = "1")] pub items: Vec<PodSandbox> }
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxStatusRequest { #[prost(string, tag = "1")] pub pod_sandbox_id: String, #[prost(bool, tag = "2")] pub verbose: bool }
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxStatusResponse { #[prost(map = "string, string", tag = "2")] pub info: HashMap<String, String> }
