//! Calls of the service `Topology` that change a namespace.

use kvmesh_client::{FromWire, ToWire, convert};
use kvmesh_directory::{FeedPosition, Hlc, Namespace, NamespaceId, Policy};
use kvmesh_proto::v1 as wire;

use super::{CallError, Peer, topology::position};

impl Peer {
    /// The namespaces of the process's region, and the view that answered.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn namespaces_at(&self) -> Result<(Vec<Namespace>, Option<FeedPosition>), CallError> {
        const WHAT: &str = "listing the namespaces";
        let request = self.request(wire::ListNamespacesRequest {});
        let answer = self.topology().list_namespaces(request).await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        let read = answer.namespaces.into_iter().map(Namespace::from_wire);
        let namespaces = read.collect::<Result<_, _>>().map_err(self.unread(WHAT))?;
        Ok((namespaces, position(self, WHAT, answer.position)?))
    }

    /// Changes a policy; says how the namespace then stands, and from which position on.
    ///
    /// # Errors
    /// When the process refuses or does not answer.
    pub async fn set_policy(
        &self,
        namespace: NamespaceId,
        policy: &Policy,
    ) -> Result<(Namespace, Option<FeedPosition>), CallError> {
        const WHAT: &str = "changing the policy";
        let request = self.request(wire::SetPolicyRequest {
            namespace_id: namespace.to_wire(),
            policy: Some(policy.to_wire()),
        });
        let answer = self.topology().set_policy(request).await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        let namespace =
            convert::required("namespace", answer.namespace).map_err(self.unread(WHAT))?;
        Ok((namespace, position(self, WHAT, answer.position)?))
    }

    /// Makes all blocks of a namespace unreadable.
    ///
    /// # Errors
    /// When the process refuses or does not answer. It may have been done then.
    pub async fn raise(
        &self,
        namespace: NamespaceId,
    ) -> Result<(Option<FeedPosition>, Hlc), CallError> {
        const WHAT: &str = "raising the generation";
        let request = self.request(wire::RaiseRequest {
            namespace_id: namespace.to_wire(),
        });
        let answer = self.topology().raise(request).await;
        let answer = answer.map_err(self.failed(WHAT))?.into_inner();
        let position = position(self, WHAT, answer.position)?;
        Ok((position, Hlc(answer.generation)))
    }
}
