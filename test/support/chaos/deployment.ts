import type { ControllerProcess } from '../kube/controller-process.ts';

/** How often it is looked after. Milliseconds. */
const everyMs = 500;

/**
 * Starts the controller again when it has ended, as its Deployment does: one that cannot renew its lease ends by itself,
 * which a slow API server is enough for.
 */
export class Deployment {
  readonly #controller: ControllerProcess;
  #timer: NodeJS.Timeout | undefined;
  /** Ends that no lost lease explains. */
  readonly died: string[] = [];
  /** It is started just now, or was killed and is to stay away. */
  #away = false;
  /** It was us who ended it. */
  #killed = false;

  constructor(controller: ControllerProcess) {
    this.#controller = controller;
  }

  /** Starts it again if it has ended. */
  async #look(): Promise<void> {
    if (this.#away || this.#controller.running) return;
    const { log } = this.#controller;
    if (!this.#killed && !log.includes('"leader.lost"'))
      this.died.push(`controller ended by itself: ${log.slice(-3_000)}`);
    await this.start();
  }

  /** Ends it, and has it stay away until `start`. */
  async kill(): Promise<void> {
    this.#away = this.#killed = true;
    await this.#controller.stop('SIGKILL');
  }

  /** Starts it, and looks after it from now on. */
  async start(): Promise<void> {
    this.#timer ??= setInterval(() => void this.#look(), everyMs);
    this.#away = true;
    try {
      await this.#controller.start();
      this.#killed = false;
    } catch {
      // The API server may be away still: the next look tries again.
      await this.#controller.stop('SIGKILL');
      this.#killed = true;
    } finally {
      this.#away = false;
    }
  }

  /** Looks after it no more. */
  stop(): void {
    this.#away = true;
    clearInterval(this.#timer);
  }
}
