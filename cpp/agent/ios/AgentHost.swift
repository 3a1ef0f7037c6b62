// SPDX-License-Identifier: Apache-2.0
// Serves a host's requests from the Documents folder, on a thread of its own, as long as the app is there. What it
// answers and how a run is measured is the agent's (melt/agent.h), the same as everywhere. It tells the core what iOS
// shows to apps alone, the thermal state and the battery, whenever they change: runs sample them as sensor `app`.
import Foundation
import Melt
import UIKit

@MainActor
final class AgentHost: ObservableObject {
    @Published private(set) var line = "melt_core \(String(cString: melt_version())): waiting for a host"

    func start() {
        watchDevice()
        let documents = FileManager.default.urls(for: .documentDirectory, in: .userDomainMask)[0].path
        let thread = Thread { [weak self] in
            guard let reason = melt_agent_serve(documents) else { return }
            let text = String(cString: reason)
            DispatchQueue.main.async { self?.line = text }
        }
        thread.stackSize = 8 << 20
        thread.start()
    }

    /// Reads first: Apple tells of changes of the thermal state only those who have read it.
    private func watchDevice() {
        UIDevice.current.isBatteryMonitoringEnabled = true
        tellOfDevice()
        for name in [
            ProcessInfo.thermalStateDidChangeNotification,
            UIDevice.batteryLevelDidChangeNotification,
            UIDevice.batteryStateDidChangeNotification,
        ] {
            NotificationCenter.default.addObserver(forName: name, object: nil, queue: .main) { [weak self] _ in
                MainActor.assumeIsolated { self?.tellOfDevice() }
            }
        }
    }

    private func tellOfDevice() {
        melt_set_thermal_state(Int32(ProcessInfo.processInfo.thermalState.rawValue))
        melt_set_battery(Double(UIDevice.current.batteryLevel), Int32(UIDevice.current.batteryState.rawValue))
    }
}
