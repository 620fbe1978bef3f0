//! A disk of the target, read over NBD, as whatever reads disks takes it.

use landfall_disks::{
    Buffer, ByteRange, Content, Disk, DiskError, Geometry, IoFuture, MappedRange,
};
use landfall_protocols::nbd::client::{Client, ClientError};

/// A disk that is read only. Its connection runs on another thread.
pub(in crate::cli) struct RemoteDisk(Client);

impl RemoteDisk {
    /// The disk that `client` has open.
    pub(in crate::cli) fn new(client: Client) -> Self {
        Self(client)
    }
}

fn failed(error: &ClientError) -> DiskError {
    DiskError::Gone(error.to_string())
}

impl Disk for RemoteDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.0.size_bytes(),
            logical_sector: 512,
            physical_sector: 4096,
            read_only: true,
        }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move { self.0.read(range).await.map_err(|error| failed(&error)) })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        Box::pin(async move {
            match self.0.block_status(range).await {
                Ok(status) => Ok(status),
                // A server that does not tell: all of it has to be read.
                Err(ClientError::NoBlockStatus) => {
                    Ok(vec![MappedRange { range, content: Content::Data }])
                }
                Err(error) => Err(failed(&error)),
            }
        })
    }
}
