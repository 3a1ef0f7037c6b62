// SPDX-License-Identifier: Apache-2.0
// Executes the request that the app was launched with (MELT_RUN, MELT_REQUEST), and says how it goes: one JSON object a
// line on standard output, and runs/RUN/status.json in Documents, replaced as a whole. docs/agent_protocol.md has the fields.
import Foundation
import Melt
import UIKit

final class Runner: ObservableObject {
    @Published private(set) var line = "waiting for MELT_RUN and MELT_REQUEST"
    private let documents = FileManager.default.urls(for: .documentDirectory, in: .userDomainMask)[0]

    func start() {
        let environment = ProcessInfo.processInfo.environment
        guard let run = environment["MELT_RUN"], let request = environment["MELT_REQUEST"] else { return }
        let name = try? NSRegularExpression(pattern: "^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")
        guard name?.firstMatch(in: run, range: NSRange(run.startIndex..., in: run)) != nil else {
            say(["state": "failed", "error": error(MELT_INVALID_ARGUMENT, "MELT_RUN is no name of a run")], run: nil)
            return
        }
        // A thread of its own with a large stack: the main one belongs to the screen.
        let thread = Thread { [weak self] in self?.measure(run: run, request: request) }
        thread.stackSize = 8 << 20
        thread.qualityOfService = .userInitiated
        thread.start()
    }

    private func measure(run: String, request: String) {
        let folder = documents.appendingPathComponent("runs/\(run)")
        do {
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            try Data(request.utf8).write(to: folder.appendingPathComponent("request.json"))
        } catch {
            say(["state": "failed", "error": self.error(MELT_IO, error.localizedDescription)], run: nil)
            return
        }
        FileManager.default.changeCurrentDirectoryPath(documents.path)  // a relative model is one in Documents
        say(["state": "running", "phase": "load"], run: run)
        var model: OpaquePointer?
        var status = melt_model_load(request, &model)
        if status == MELT_OK {
            let context = Unmanaged.passRetained(Progress(runner: self, run: run))
            status = melt_model_profile(
                model, folder.appendingPathComponent("trace.melt").path,
                { context, done, total in
                    let progress = Unmanaged<Progress>.fromOpaque(context!).takeUnretainedValue()
                    progress.runner.say(
                        ["state": "running", "phase": "run", "repetition": done, "repetitions": total], run: progress.run)
                }, context.toOpaque())
            context.release()
        }
        let message = String(cString: melt_last_error())
        melt_model_free(model)
        if status == MELT_OK {
            say(["state": "done"], run: run)
        } else {
            let state = status == MELT_CANCELLED ? "cancelled" : "failed"
            say(["state": state, "error": error(status, message)], run: run)
        }
    }

    private func error(_ status: melt_status, _ message: String) -> [String: Any] {
        let kinds: [UInt32: String] = [
            1: "InvalidArgumentError", 2: "ModelError", 3: "OutOfMemoryError", 4: "RuntimeFailedError", 5: "TraceError",
            6: "StorageError", 7: "BusyError", 8: "CancelledError",
        ]
        return ["kind": kinds[status.rawValue] ?? "RuntimeFailedError", "message": message, "transient": false]
    }

    /// With what only an app can see: the thermal state and the battery.
    func say(_ members: [String: Any], run: String?) {
        let thermal = ["nominal", "fair", "serious", "critical"]
        let state = ProcessInfo.processInfo.thermalState.rawValue
        var object = members
        object["run"] = run
        object["version"] = String(cString: melt_version())
        object["thermal_state"] = state < thermal.count ? thermal[state] : "unknown"
        object["updated_ns"] = Int64(clock_gettime_nsec_np(CLOCK_MONOTONIC))
        guard let data = try? JSONSerialization.data(withJSONObject: object, options: [.sortedKeys]) else { return }
        FileHandle.standardOutput.write(data + Data("\n".utf8))
        if let run {
            try? data.write(to: documents.appendingPathComponent("runs/\(run)/status.json"), options: .atomic)
        }
        DispatchQueue.main.async { self.line = String(decoding: data, as: UTF8.self) }
    }

    private final class Progress {
        let runner: Runner
        let run: String

        init(runner: Runner, run: String) {
            self.runner = runner
            self.run = run
        }
    }
}
