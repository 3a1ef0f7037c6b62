// SPDX-License-Identifier: Apache-2.0
// The app around the agent: a screen that stays on, and one line of text.
import SwiftUI

@main
struct MeltApp: App {
    @StateObject private var agent = AgentHost()

    var body: some Scene {
        WindowGroup {
            Text(agent.line)
                .font(.system(.body, design: .monospaced))
                .padding()
                .onAppear {
                    UIApplication.shared.isIdleTimerDisabled = true  // a locked screen would suspend the run
                    agent.start()
                }
        }
    }
}
