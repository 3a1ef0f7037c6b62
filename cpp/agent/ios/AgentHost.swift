// SPDX-License-Identifier: Apache-2.0
// Serves a host's requests from the Documents folder, on a thread of its own, as long as the app is there. What it
// answers and how a run is measured is the agent's (melt/agent.h), the same as everywhere.
import Foundation
import Melt

final class AgentHost: ObservableObject {
    @Published private(set) var line = "melt_core \(String(cString: melt_version())): waiting for a host"

    func start() {
        let documents = FileManager.default.urls(for: .documentDirectory, in: .userDomainMask)[0].path
        let thread = Thread { [weak self] in
            guard let reason = melt_agent_serve(documents) else { return }
            let text = String(cString: reason)
            DispatchQueue.main.async { self?.line = text }
        }
        thread.stackSize = 8 << 20
        thread.start()
    }
}
