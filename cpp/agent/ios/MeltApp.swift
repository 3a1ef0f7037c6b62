// SPDX-License-Identifier: Apache-2.0
// The app around a run: a screen that stays on, and one line of text.
import SwiftUI

@main
struct MeltApp: App {
    @StateObject private var runner = Runner()

    var body: some Scene {
        WindowGroup {
            Text(runner.line)
                .font(.system(.body, design: .monospaced))
                .padding()
                .onAppear {
                    UIApplication.shared.isIdleTimerDisabled = true  // a locked screen would suspend the run
                    runner.start()
                }
        }
    }
}
