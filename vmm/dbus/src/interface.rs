//! The methods and the signal, under the names of the reference (`api.json`, `dbus`).

use std::sync::Arc;

use api::{Body, Handler, Request, Response};
use tokio::sync::oneshot;
use zbus::object_server::SignalEmitter;
use zbus::{fdo, interface};

/// What is at the object's path. Each method asks the endpoint of the same name: what goes in and out is the body
/// that HTTP has, as a text; an empty one stands for none.
pub(crate) struct Monitor {
    pub(crate) handler: Arc<dyn Handler>,
}

impl Monitor {
    /// Asks an endpoint. What fails is an error with the chain of causes.
    async fn ask(&self, endpoint: &'static str, json: String) -> fdo::Result<String> {
        let known = api::find(&format!("{}{endpoint}", api::PREFIX));
        let known = known.ok_or_else(|| fdo::Error::UnknownMethod(endpoint.to_owned()))?;
        let request = Request {
            method: known.method,
            path: format!("{}{endpoint}", api::PREFIX),
            body: json.into_bytes(),
            descriptors: Vec::new(),
        };
        let (respond, response) = oneshot::channel();
        // Who asked may have gone.
        let respond = Box::new(move |response| drop(respond.send(response)));
        self.handler.serve(request, respond);
        match response.await {
            Ok(response) => text(response),
            Err(_) => Err(fdo::Error::Failed("the monitor ends".to_owned())),
        }
    }

    /// As [`Monitor::ask`], where there is nothing to be told.
    async fn act(&self, endpoint: &'static str, json: String) -> fdo::Result<()> {
        self.ask(endpoint, json).await.map(drop)
    }
}

fn text(response: Response) -> fdo::Result<String> {
    let Body::Whole(body) = response.body else {
        return Err(fdo::Error::NotSupported("a stream".to_owned()));
    };
    let body = String::from_utf8_lossy(&body).into_owned();
    match response.status {
        ..400 => Ok(body),
        _ => Err(fdo::Error::Failed(body)),
    }
}

#[interface(name = "org.cloudhypervisor.DBusApi1")]
impl Monitor {
    async fn vmm_ping(&self) -> fdo::Result<String> {
        self.ask("vmm.ping", String::new()).await
    }

    async fn vmm_shutdown(&self) -> fdo::Result<()> {
        self.act("vmm.shutdown", String::new()).await
    }

    async fn vm_add_device(&self, json: String) -> fdo::Result<String> {
        self.ask("vm.add-device", json).await
    }

    async fn vm_add_disk(&self, json: String) -> fdo::Result<String> {
        self.ask("vm.add-disk", json).await
    }

    async fn vm_add_fs(&self, json: String) -> fdo::Result<String> {
        self.ask("vm.add-fs", json).await
    }

    async fn vm_add_generic_vhost_user(&self, json: String) -> fdo::Result<String> {
        self.ask("vm.add-generic-vhost-user", json).await
    }

    async fn vm_add_net(&self, json: String) -> fdo::Result<String> {
        self.ask("vm.add-net", json).await
    }

    async fn vm_add_pmem(&self, json: String) -> fdo::Result<String> {
        self.ask("vm.add-pmem", json).await
    }

    async fn vm_add_user_device(&self, json: String) -> fdo::Result<String> {
        self.ask("vm.add-user-device", json).await
    }

    async fn vm_add_vdpa(&self, json: String) -> fdo::Result<String> {
        self.ask("vm.add-vdpa", json).await
    }

    async fn vm_add_vsock(&self, json: String) -> fdo::Result<String> {
        self.ask("vm.add-vsock", json).await
    }

    async fn vm_boot(&self) -> fdo::Result<()> {
        self.act("vm.boot", String::new()).await
    }

    async fn vm_coredump(&self, json: String) -> fdo::Result<()> {
        self.act("vm.coredump", json).await
    }

    async fn vm_counters(&self) -> fdo::Result<String> {
        self.ask("vm.counters", String::new()).await
    }

    async fn vm_create(&self, json: String) -> fdo::Result<()> {
        self.act("vm.create", json).await
    }

    async fn vm_delete(&self) -> fdo::Result<()> {
        self.act("vm.delete", String::new()).await
    }

    async fn vm_info(&self) -> fdo::Result<String> {
        self.ask("vm.info", String::new()).await
    }

    async fn vm_pause(&self) -> fdo::Result<()> {
        self.act("vm.pause", String::new()).await
    }

    async fn vm_power_button(&self) -> fdo::Result<()> {
        self.act("vm.power-button", String::new()).await
    }

    async fn vm_reboot(&self) -> fdo::Result<()> {
        self.act("vm.reboot", String::new()).await
    }

    async fn vm_remove_device(&self, json: String) -> fdo::Result<()> {
        self.act("vm.remove-device", json).await
    }

    async fn vm_resize(&self, json: String) -> fdo::Result<()> {
        self.act("vm.resize", json).await
    }

    async fn vm_resize_zone(&self, json: String) -> fdo::Result<()> {
        self.act("vm.resize-zone", json).await
    }

    async fn vm_restore(&self, json: String) -> fdo::Result<()> {
        self.act("vm.restore", json).await
    }

    async fn vm_receive_migration(&self, json: String) -> fdo::Result<()> {
        self.act("vm.receive-migration", json).await
    }

    async fn vm_send_migration(&self, json: String) -> fdo::Result<()> {
        self.act("vm.send-migration", json).await
    }

    async fn vm_resume(&self) -> fdo::Result<()> {
        self.act("vm.resume", String::new()).await
    }

    async fn vm_shutdown(&self) -> fdo::Result<()> {
        self.act("vm.shutdown", String::new()).await
    }

    async fn vm_snapshot(&self, json: String) -> fdo::Result<()> {
        self.act("vm.snapshot", json).await
    }

    /// An event, as `--event-monitor` writes it.
    #[zbus(signal)]
    pub(crate) async fn event(emitter: &SignalEmitter<'_>, event: &str) -> zbus::Result<()>;
}
