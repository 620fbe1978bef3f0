//! Whether an image that was caught at some moment is sound: nothing is wrong with it, or it can be put right without loss.

use crate::image::{check, landfall};
use crate::qemu;
use landfall_tests::harness::run;

/// How images were found.
#[derive(Default, Debug)]
pub(crate) struct Found {
    pub(crate) moments: u32,
    /// Those whose log QEMU has to replay before it reads them.
    pub(crate) to_replay: u32,
    /// Those in which our own check repaired something.
    pub(crate) repaired: u32,
}

impl Found {
    /// Judges an image of which `raw` is what we read. `qemu` says whether QEMU knows the kind.
    #[track_caller]
    pub(crate) fn judge(&mut self, image: &str, raw: &str, qemu: bool) {
        self.moments += 1;
        if qemu {
            self.judge_by_qemu(image, raw);
        }
        let checked = landfall(&["check", "--json", image]);
        if checked.code != Some(0) {
            self.repaired += 1;
            landfall(&["check", "--json", "--repair", image]).ok();
            check(image);
            let again = format!("{image}.repaired.raw");
            landfall(&["convert", image, &again]).ok();
            qemu::compare(&again, raw);
            std::fs::remove_file(again).expect("removed");
        }
    }

    /// QEMU finds nothing wrong, not even a leak, and reads the same. Of a VHDX whose log is not empty it first replays that, in a
    /// copy.
    #[track_caller]
    fn judge_by_qemu(&mut self, image: &str, raw: &str) {
        if !qemu::has_check(image) {
            qemu::compare(image, raw);
            return;
        }
        let first = qemu::checked(image);
        if first.code == Some(0) {
            qemu::check(image);
            qemu::compare(image, raw);
            return;
        }
        assert!(first.err.contains("contains a log that needs to be replayed"), "{first:?}");
        self.to_replay += 1;
        let copy = format!("{image}.replayed.vhdx");
        std::fs::copy(image, &copy).expect("copied");
        run("qemu-img", &["check", "-q", "-f", "vhdx", "-r", "all", &copy]);
        qemu::check(&copy);
        qemu::compare(&copy, raw);
        std::fs::remove_file(copy).expect("removed");
    }
}
